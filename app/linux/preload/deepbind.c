/* SPDX-License-Identifier: MIT */
/*
 * dlopen() without RTLD_DEEPBIND. A library that is opened with it (php opens its extensions so) looks for names in itself and in what
 * it needs before it looks here: it would take the C library's free for what our malloc gave.
 */
#define _GNU_SOURCE
#include <dlfcn.h>

#include "preload.h"

typedef void *open_fn(const char *, int);

static open_fn *next_open;

EXPORT void *dlopen(const char *file, int mode)
{
	open_fn *open = __atomic_load_n(&next_open, __ATOMIC_RELAXED);

	if (!open) {
		open = (open_fn *)dlsym(RTLD_NEXT, "dlopen");
		__atomic_store_n(&next_open, open, __ATOMIC_RELAXED);
	}
	/* A jump, not a call: where it searches depends on who calls it. */
	return open(file, mode & ~RTLD_DEEPBIND);
}
