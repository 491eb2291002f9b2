/* SPDX-License-Identifier: MIT */
/*
 * The port of the heap in programs of Linux: the command, and whatever links libkmalloc.a. A CPU is a thread here. It needs the C library
 * for two things only, and goes without where there is none: to sleep, and to learn that a thread ended.
 */
#ifndef LINUX_PORT_H
#define LINUX_PORT_H

#define KPORT_CPUS 64
#define KPORT_INTERRUPTS 0

#include "cpu.h"
#include "lock.h"

static inline void kport_lock_init(struct kport_lock *lock)
{
	*lock = (struct kport_lock){ .state = LOCK_FREE };
}

_Noreturn static inline void kport_trap(void)
{
	__builtin_trap();
}

#endif
