/* SPDX-License-Identifier: MIT */
/*
 * What a host supplies to the heap at compile time. Pages are not here: they come through struct kpage_source at run time.
 *
 * A host that needs something else writes its own header with the same names and compiles the heap with
 * -DKMALLOC_PORT_HEADER='"my_port.h"'. The default below needs nothing but the compiler: a spin lock that is safe on any
 * number of CPUs, and the compiler's trap.
 *
 * To call the heap from interrupt handlers, kport_lock must mask interrupts on this CPU before it spins, and kport_unlock
 * must put the mask back; kport_lock_state carries what was saved. The heap never calls out while it holds a lock, and holds
 * one at a time.
 */
#ifndef KMALLOC_PORT_H
#define KMALLOC_PORT_H

#ifdef KMALLOC_PORT_HEADER
#include KMALLOC_PORT_HEADER
#else

struct kport_lock {
	unsigned char taken;
};

/* What kport_unlock needs to put back, for instance the interrupt flag. */
typedef unsigned char kport_lock_state;

static inline void kport_lock_init(struct kport_lock *lock)
{
	__atomic_clear(&lock->taken, __ATOMIC_RELAXED);
}

static inline kport_lock_state kport_lock(struct kport_lock *lock)
{
	while (__atomic_test_and_set(&lock->taken, __ATOMIC_ACQUIRE)) {
		/* Wait on a plain load, so that the line is shared while another CPU works. */
		while (__atomic_load_n(&lock->taken, __ATOMIC_RELAXED)) {
#if defined(__x86_64__) || defined(__i386__)
			__builtin_ia32_pause();
#elif defined(__aarch64__)
			__asm__ volatile("yield");
#endif
		}
	}
	return 0;
}

static inline void kport_unlock(struct kport_lock *lock, kport_lock_state state)
{
	(void)state;
	__atomic_clear(&lock->taken, __ATOMIC_RELEASE);
}

/* Misuse was found and there is nobody to tell. Must not return. */
_Noreturn static inline void kport_trap(void)
{
	__builtin_trap();
}

#endif
#endif
