/* SPDX-License-Identifier: MIT */
/*
 * fork(). The child has one thread only, and a lock that another thread held would stay taken in it for ever. So the forking thread takes
 * every lock before the process is copied, when no other thread is inside the page source, which makes the child's copy of what they
 * protect a whole one, and lets go on both sides. Caches of threads are under no lock: see ../port/cpu.h.
 *
 * The handlers are registered with the first allocation, before those of anybody else: so they run last before the copy and first after
 * it, and other libraries' handlers may allocate.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <kmalloc_port.h>

#include "preload.h"

/* The heap has fewer. */
#define MAX_LOCKS 16
#define YIELDS 64
#define WAITS 1000 /* milliseconds, nearly */
#define LOOKS 5000 /* some ten microseconds */

static const struct kheap *heap;
/* Calls of the page source by threads that a parent had: they never end here. */
static uint32_t n_lost_calls;
static struct kport_lock *locks[MAX_LOCKS];
static unsigned n_locks;

void preload_lock_register(struct kport_lock *lock)
{
	if (n_locks == MAX_LOCKS)
		preload_trap();
	locks[n_locks++] = lock;
}

static void unlock_all(void)
{
	for (unsigned i = n_locks; i-- > 0;)
		kport_unlock(locks[i], 0);
}

/* Long enough for whoever is giving back a lot; not for ever, because it may be the forking thread, in a signal handler. */
static void wait_briefly(unsigned n)
{
	struct timespec millisecond = { 0, 1000000 };

	if (n < YIELDS)
		sched_yield();
	else
		syscall(SYS_nanosleep, &millisecond, NULL); /* no point of cancellation, as fork() is none */
}

static bool is_source_called(void)
{
	return kheap_get_glance(heap).n_source_calls > n_lost_calls;
}

/* Threads that are inside the page source would not come out of it in the child, where nobody else knows of what they brought or took. */
static void before_fork(void)
{
	int saved = errno;

	for (unsigned n = 0;; n++) {
		for (unsigned i = 0; i < n_locks; i++)
			kport_lock(locks[i]);
		if (n == WAITS || !is_source_called())
			break;
		unlock_all();
		wait_briefly(n);
		/* Who calls it all the time is outside for a moment only. */
		for (unsigned looks = LOOKS; looks && is_source_called(); looks--)
			;
	}
	errno = saved;
}

static void after_fork_in_parent(void)
{
	unlock_all();
}

/* Nobody waits in the child, or gives pages back: the threads that did are not in it. */
static void after_fork_in_child(void)
{
	preload_look_end();
	n_lost_calls = kheap_get_glance(heap).n_source_calls;
	for (unsigned i = 0; i < n_locks; i++)
		__atomic_store_n(&locks[i]->state, LOCK_FREE, __ATOMIC_RELEASE);
}

void preload_fork_begin(const struct kheap *the_heap)
{
	heap = the_heap;
	/* The first entries of the C library's list are not allocated. */
	pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}
