/* SPDX-License-Identifier: MIT */
/* Blocks of all sizes go from the program to an extension and back. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *outer_open(void);

int main(void)
{
	void *inner = outer_open();

	if (!inner) {
		printf("the extension was not opened: %s\n", dlerror());
		return 1;
	}
	char *(*exchange)(char *) = (char *(*)(char *))dlsym(inner, "inner_exchange");

	for (size_t size = 1; size < (size_t)1 << 20; size += size / 2 + 1) {
		char *given = malloc(size), *got;

		memset(given, 1, size);
		got = exchange(given);
		if (strcmp(got, "from the extension") != 0)
			return 1;
		free(got);
	}
	printf("deepbind passed\n");
	return 0;
}
