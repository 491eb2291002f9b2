/* SPDX-License-Identifier: MIT */
/*
 * setrlimit() and its relatives, for the sake of address space: what the page source reserved leaves none to a process that gives itself
 * less. Limits that are there when the program starts it asks for itself.
 */
#define _GNU_SOURCE
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "preload.h"

EXPORT int prlimit(pid_t process, enum __rlimit_resource resource, const struct rlimit *limit, struct rlimit *old)
{
	int result = (int)syscall(SYS_prlimit64, process, resource, limit, old);
	struct kheap *heap = preload_heap();

	if (result == 0 && heap && limit && resource == RLIMIT_AS && (process == 0 || process == getpid()) &&
	    preload_is_own_process())
		preload_pages_limit(heap, limit->rlim_cur);
	return result;
}

EXPORT int setrlimit(enum __rlimit_resource resource, const struct rlimit *limit)
{
	return prlimit(0, resource, limit, NULL);
}

_Static_assert(sizeof(struct rlimit) == sizeof(struct rlimit64), "both have 64 bits");
EXPORT int prlimit64(pid_t process, enum __rlimit_resource resource, const struct rlimit64 *limit, struct rlimit64 *old)
{
	return prlimit(process, resource, (const struct rlimit *)limit, (struct rlimit *)old);
}

EXPORT int setrlimit64(enum __rlimit_resource resource, const struct rlimit64 *limit)
{
	return prlimit(0, resource, (const struct rlimit *)limit, NULL);
}
