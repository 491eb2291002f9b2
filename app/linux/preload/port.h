/* SPDX-License-Identifier: MIT */
/*
 * The port of the heap inside libkmalloc.so: as in other programs of Linux, but there may be many threads, misuse stops the program with
 * a line of text, and all locks are known, so that fork() can take them.
 */
#ifndef PRELOAD_PORT_H
#define PRELOAD_PORT_H

#define KPORT_CPUS 1024
#define KPORT_INTERRUPTS 0

#include "../port/cpu.h"
#include "../port/lock.h"

void preload_lock_register(struct kport_lock *lock);
_Noreturn void preload_trap(void);

static inline void kport_lock_init(struct kport_lock *lock)
{
	*lock = (struct kport_lock){ .state = LOCK_FREE };
	preload_lock_register(lock);
}

_Noreturn static inline void kport_trap(void)
{
	preload_trap();
}

#endif
