/* SPDX-License-Identifier: MIT */
/*
 * Numbers of threads, for the heap's caches. A thread takes the lowest free number when it has used the heap a few times, and gives
 * it back when it ends; the next thread with that number goes on with what caches it finds. Threads beyond KPORT_CPUS have
 * no number and work without caches.
 *
 * fork() needs nothing here. The child has one thread, with the number it had. Those of the others stay taken in it for good: the
 * copy may have been made while they changed their caches, so nobody may ever use or empty these. What lies in them is lost to the child,
 * as is whatever else its lost threads had.
 */
#ifndef LINUX_PORT_CPU_H
#define LINUX_PORT_CPU_H

/* KPORT_CPUS when this thread has none. The compiler can tell where it is, but not in a shared library. */
#if defined(__PIC__) && !defined(__PIE__)
extern _Thread_local unsigned kport_cpu_number __attribute__((visibility("hidden")));
#else
extern _Thread_local unsigned kport_cpu_number __attribute__((visibility("hidden"), tls_model("local-exec")));
#endif

/* Called when a thread that has a number ends, before the number is given back. May be NULL. Set before there are threads. */
extern void (*kport_cpu_leaving)(void) __attribute__((visibility("hidden")));

static inline unsigned kport_cpu(void)
{
	return kport_cpu_number;
}

/* Give this thread a number if it may have one, and return it, or KPORT_CPUS. No lock of the heap may be held. */
unsigned kport_cpu_begin(void) __attribute__((visibility("hidden")));

#endif
