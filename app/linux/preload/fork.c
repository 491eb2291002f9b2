/* SPDX-License-Identifier: MIT */
/*
 * fork(). The child has one thread only, and a lock that another thread held would stay taken in it for ever. So the forking thread takes
 * every lock before the process is copied, which makes the child's copy of what they protect a whole one, and lets go on both sides. What is
 * done without a lock the child mends: others may have been inside the page source. Caches of threads are under no lock: see ../port/cpu.h.
 *
 * The handlers are registered with the first allocation, before those of anybody else: so they run last before the copy and first after
 * it, and other libraries' handlers may allocate.
 */
#include <pthread.h>
#include <unistd.h>

#include <kmalloc_port.h>

#include "preload.h"

/* The heap has fewer. */
#define MAX_LOCKS 16

static struct kheap *heap;
static pid_t process;
static struct kport_lock *locks[MAX_LOCKS];
static unsigned n_locks;

void preload_lock_register(struct kport_lock *lock)
{
	if (n_locks == MAX_LOCKS)
		preload_trap();
	locks[n_locks++] = lock;
}

static void lock_all(void)
{
	for (unsigned i = 0; i < n_locks; i++)
		kport_lock(locks[i]);
}

static void unlock_all(void)
{
	for (unsigned i = n_locks; i-- > 0;)
		kport_unlock(locks[i], 0);
}

/* Nobody waits in the child, or is inside the page source, or gives pages back: the threads that did are not in it. */
static void after_fork_in_child(void)
{
	for (unsigned i = 0; i < n_locks; i++)
		__atomic_store_n(&locks[i]->state, LOCK_FREE, __ATOMIC_RELEASE);
	process = getpid();
	kheap_after_fork(heap);
	preload_pages_after_fork(heap);
	preload_look_end();
}

bool preload_is_own_process(void)
{
	return process == getpid();
}

void preload_fork_begin(struct kheap *the_heap)
{
	heap = the_heap;
	process = getpid();
	/* The first entries of the C library's list are not allocated. */
	pthread_atfork(lock_all, unlock_all, after_fork_in_child);
}
