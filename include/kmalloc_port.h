/* SPDX-License-Identifier: MIT */
/*
 * What a host supplies to the heap at compile time: which CPU this is, a lock, a trap. Pages are not here: they come through struct
 * kpage_source at run time.
 *
 * A host that needs something else writes its own header with the same names and compiles the heap, and whatever includes this, with
 * -DKMALLOC_PORT_HEADER='"my_port.h"'. The default below needs nothing but the compiler:
 *
 *   freestanding (-ffreestanding)  one CPU, no interrupt handler that calls the heap, and no switch of threads inside it. A kernel with
 *                                  several CPUs, or with handlers that allocate, must give its own header: see the README for one of
 *                                  twenty lines.
 *   hosted                         any number of threads; the first KPORT_CPUS of them have a cache of their own.
 *
 * KPORT_CPUS        CPUs that have a cache of their own. Costs each heap a pointer a CPU; a cache is made when its CPU first needs it.
 * kport_cpu()       The number of this CPU, below KPORT_CPUS, or KPORT_CPUS when it has none (it then works without a cache, which is
 *                   slower and just as right). No other CPU may have the same number at the same time. It must hold until the call of
 *                   the heap returns: a kernel that can move a thread to another CPU, or give the CPU to another thread, at any moment disables
 *                   that (preemption) inside the heap, or numbers its threads.
 * kport_cpu_begin() The same, called once before a CPU is given a cache: a host that numbers its threads does it here.
 * KPORT_INTERRUPTS  1: code that interrupted the heap on its own CPU (an interrupt handler, a notification function of UEFI) may call it,
 *                   if it ends before what it interrupted goes on: a switch to another thread does not. Each CPU's cache then carries an "inside" mark: whoever finds it set leaves that cache alone and works on the
 *                   shared storeys. It costs four instructions a call. kport_lock must then keep such code away until kport_unlock, for
 *                   instance by masking interrupts; kport_lock_state carries what was saved.
 * kport_lock()      Mutual exclusion of all CPUs. The heap holds one lock at a time, for a bounded time, and calls nobody meanwhile.
 * kport_trap()      Misuse was found and there is nobody to tell. Must not return.
 */
#ifndef KMALLOC_PORT_H
#define KMALLOC_PORT_H

#ifdef KMALLOC_PORT_HEADER
#include KMALLOC_PORT_HEADER
#else

#define KPORT_INTERRUPTS 0

#if __STDC_HOSTED__

/* A thread's number is given back by nobody here: thread 33 of a program, and all after it, work without a cache. */
#define KPORT_CPUS 32
#define KPORT_THREADS 1 /* the heap numbers them */

/* A program's own thread-local variables are where the compiler can tell; a shared library's are not. */
#if defined(__PIC__) && !defined(__PIE__)
extern _Thread_local unsigned kport_thread __attribute__((visibility("hidden")));
#else
extern _Thread_local unsigned kport_thread __attribute__((visibility("hidden"), tls_model("local-exec")));
#endif
unsigned kport_thread_begin(void);

static inline unsigned kport_cpu(void)
{
	return kport_thread;
}

static inline unsigned kport_cpu_begin(void)
{
	return kport_thread_begin();
}

#else

#define KPORT_CPUS 1

static inline unsigned kport_cpu(void)
{
	return 0;
}

static inline unsigned kport_cpu_begin(void)
{
	return 0;
}

#endif

struct kport_lock {
	unsigned char taken;
};

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

_Noreturn static inline void kport_trap(void)
{
	__builtin_trap();
}

#endif
#endif
