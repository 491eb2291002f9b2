/* SPDX-License-Identifier: MIT */
/*
 * The port of the heap inside libkmalloc.so: a lock that sleeps in the kernel. A thread that loses its CPU while it holds the lock must
 * not make the others spin for a time slice. All locks are known, so that fork() can take them: a child has one thread only, and a
 * lock that another thread held would stay taken in it for ever.
 */
#ifndef PRELOAD_PORT_H
#define PRELOAD_PORT_H

struct kport_lock {
	unsigned state; /* enum lock_state */
};

enum lock_state { LOCK_FREE, LOCK_TAKEN, LOCK_AWAITED };

typedef unsigned char kport_lock_state;

void preload_lock_register(struct kport_lock *lock);
void preload_lock_wait(struct kport_lock *lock);
void preload_lock_wake(struct kport_lock *lock);
_Noreturn void preload_trap(void);

static inline void kport_lock_init(struct kport_lock *lock)
{
	lock->state = LOCK_FREE;
	preload_lock_register(lock);
}

static inline kport_lock_state kport_lock(struct kport_lock *lock)
{
	unsigned expected = LOCK_FREE;

	if (!__atomic_compare_exchange_n(&lock->state, &expected, LOCK_TAKEN, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
		preload_lock_wait(lock);
	return 0;
}

static inline void kport_unlock(struct kport_lock *lock, kport_lock_state state)
{
	(void)state;
	if (__atomic_exchange_n(&lock->state, LOCK_FREE, __ATOMIC_RELEASE) == LOCK_AWAITED)
		preload_lock_wake(lock);
}

_Noreturn static inline void kport_trap(void)
{
	preload_trap();
}

#endif
