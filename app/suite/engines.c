/* SPDX-License-Identifier: MIT */
/*
 * Which engines there are: the suite's own first, then the host's. Only this file knows the list.
 */
#include "allocator.h"
#include "text.h"

#define MAX_ENGINES 8

struct allocator *const *suite_engines(struct host *host)
{
	static struct allocator *engines[MAX_ENGINES + 1];
	size_t n = 0;

	engines[n++] = &engine_heap;
	engines[n++] = &engine_classic;
	for (size_t i = 0; host->engines != NULL && host->engines[i] != NULL && n < MAX_ENGINES; i++)
		engines[n++] = host->engines[i];
	engines[n] = NULL;
	return engines;
}

struct allocator *suite_engine(struct host *host, const char *name)
{
	struct allocator *const *engines = suite_engines(host);

	for (size_t i = 0; engines[i] != NULL; i++)
		if (text_compare_nocase(engines[i]->name, name) == 0)
			return engines[i];
	return NULL;
}
