/* SPDX-License-Identifier: MIT */
/* The library that opens it, by a name that only this library's own search path leads to. */
#define _GNU_SOURCE
#include <dlfcn.h>

void *outer_open(void)
{
	return dlopen("libinner.so", RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
}
