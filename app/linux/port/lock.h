/* SPDX-License-Identifier: MIT */
/*
 * The heap's lock on Linux: it spins for a moment, then sleeps in the kernel. A thread that loses its CPU while it holds the lock must
 * not make the others spin for a time slice.
 */
#ifndef LINUX_PORT_LOCK_H
#define LINUX_PORT_LOCK_H

struct kport_lock {
	unsigned state; /* enum lock_state */
};

enum lock_state { LOCK_FREE, LOCK_TAKEN, LOCK_AWAITED };

typedef unsigned char kport_lock_state;

void kport_lock_wait(struct kport_lock *lock) __attribute__((visibility("hidden")));
void kport_lock_wake(struct kport_lock *lock) __attribute__((visibility("hidden")));

static inline kport_lock_state kport_lock(struct kport_lock *lock)
{
	unsigned expected = LOCK_FREE;

	if (!__atomic_compare_exchange_n(&lock->state, &expected, LOCK_TAKEN, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
		kport_lock_wait(lock);
	return 0;
}

/* If it is free. */
static inline int kport_lock_try(struct kport_lock *lock)
{
	unsigned expected = LOCK_FREE;

	return __atomic_compare_exchange_n(&lock->state, &expected, LOCK_TAKEN, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

static inline void kport_unlock(struct kport_lock *lock, kport_lock_state state)
{
	(void)state;
	if (__atomic_exchange_n(&lock->state, LOCK_FREE, __ATOMIC_RELEASE) == LOCK_AWAITED)
		kport_lock_wake(lock);
}

#endif
