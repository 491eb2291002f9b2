/* SPDX-License-Identifier: MIT */
/*
 * The heap's lock when it is not free at once, and fork().
 *
 * The forking thread takes every lock before the process is copied, so that the child's copy of the heap is a whole one, and lets go on
 * both sides. The handlers are registered with the first allocation, before those of anybody else: so they run last before the
 * copy and first after it, and other libraries' handlers may allocate.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <kmalloc_port.h>

#include "preload.h"

/* Critical sections are shorter than a system call, but a holder that lost its CPU stays away for long. */
#define SPINS 64
/* The heap has fewer. */
#define MAX_LOCKS 16

static struct kport_lock *locks[MAX_LOCKS];
static unsigned n_locks;

static void futex(struct kport_lock *lock, int operation, unsigned value)
{
	int saved = errno;

	syscall(SYS_futex, &lock->state, operation, value, NULL, NULL, 0);
	errno = saved;
}

void preload_lock_register(struct kport_lock *lock)
{
	if (n_locks == MAX_LOCKS)
		preload_trap();
	locks[n_locks++] = lock;
}

void preload_lock_wait(struct kport_lock *lock)
{
	for (int i = 0; i < SPINS; i++) {
		unsigned expected = LOCK_FREE;

		__builtin_ia32_pause();
		if (__atomic_load_n(&lock->state, __ATOMIC_RELAXED) == LOCK_FREE &&
		    __atomic_compare_exchange_n(&lock->state, &expected, LOCK_TAKEN, 0, __ATOMIC_ACQUIRE,
		                                __ATOMIC_RELAXED))
			return;
	}
	/* Whoever slept takes it as awaited, because others may sleep still: one wake too many is harmless, one too few is not. */
	while (__atomic_exchange_n(&lock->state, LOCK_AWAITED, __ATOMIC_ACQUIRE) != LOCK_FREE)
		futex(lock, FUTEX_WAIT_PRIVATE, LOCK_AWAITED);
}

void preload_lock_wake(struct kport_lock *lock)
{
	futex(lock, FUTEX_WAKE_PRIVATE, 1);
}

static void before_fork(void)
{
	for (unsigned i = 0; i < n_locks; i++)
		kport_lock(locks[i]);
}

static void after_fork_in_parent(void)
{
	for (unsigned i = n_locks; i-- > 0;)
		kport_unlock(locks[i], 0);
}

/* Nobody waits in the child: the threads that did are not in it. */
static void after_fork_in_child(void)
{
	for (unsigned i = 0; i < n_locks; i++)
		__atomic_store_n(&locks[i]->state, LOCK_FREE, __ATOMIC_RELEASE);
}

void preload_fork_begin(void)
{
	/* The first entries of the C library's list are not allocated. */
	pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}
