/* SPDX-License-Identifier: MIT */
/* Misuse, one function each: the program must be stopped inside it. */
#define _GNU_SOURCE
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "probe.h"

void misuse_double_free(void)
{
	void *object = malloc(40), *kept = malloc(40);

	free(object);
	free(hide(object));
	free(kept);
}

void misuse_double_free_large(void)
{
	void *object = malloc(300000), *kept = malloc(300000);

	free(object);
	free(hide(object));
	free(kept);
}

void misuse_foreign_stack(void)
{
	char text[64];

	free(hide(text + 16));
}

void misuse_foreign_low(void)
{
	free(hide((void *)0x1230));
}

void misuse_interior(void)
{
	char *object = malloc(400);

	free(hide(object + 64));
}

void misuse_misaligned(void)
{
	char *object = malloc(400);

	free(hide(object + 3));
}

void misuse_realloc_freed(void)
{
	void *object = malloc(400), *kept = malloc(400);

	free(object);
	kept = realloc(hide(object), 800);
	free(kept);
}

/* Past the object's last usable byte stands, as a rule, what describes the next one. */
void misuse_overrun(void)
{
	enum { OBJECTS = 16, SIZE = 1000 };
	char *objects[OBJECTS];

	for (int i = 0; i < OBJECTS; i++)
		objects[i] = malloc(SIZE);
	memset(hide(objects[OBJECTS / 2]), 1, hide_size(malloc_usable_size(objects[OBJECTS / 2]) + 8));
	for (int i = 0; i < OBJECTS; i++)
		free(objects[i]);
}

void misuse_wrong_size(void)
{
	free_sized(malloc(40), hide_size(4000));
}
