/* SPDX-License-Identifier: MIT */
/* The heap's lock when it is not free at once. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <kmalloc_port.h>

/* libkmalloc.a must need nothing: in a program without it, threads spin until they have the lock. */
#pragma weak syscall
#pragma weak __errno_location

/* About as long as it takes to sleep and be woken. Critical sections are shorter, but a holder that lost its CPU stays away for long. */
#define SPINS 1000

static void futex(struct kport_lock *lock, int operation, unsigned value)
{
	if (!syscall || !__errno_location)
		return;
	int saved = errno;

	syscall(SYS_futex, &lock->state, operation, value, NULL, NULL, 0);
	errno = saved;
}

static void pause_briefly(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

/* Soon, if it comes to be free. */
static int is_taken_soon(struct kport_lock *lock, unsigned taken)
{
	for (int i = 0; i < SPINS; i++) {
		unsigned expected = LOCK_FREE;

		pause_briefly();
		if (__atomic_load_n(&lock->state, __ATOMIC_RELAXED) == LOCK_FREE &&
		    __atomic_compare_exchange_n(&lock->state, &expected, taken, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
			return 1;
	}
	return 0;
}

void kport_lock_wait(struct kport_lock *lock)
{
	unsigned taken = LOCK_TAKEN;

	/* Whoever slept takes it as awaited, because others may sleep still: one wake too many is harmless, one too few is not. */
	while (!is_taken_soon(lock, taken) &&
	       __atomic_exchange_n(&lock->state, taken = LOCK_AWAITED, __ATOMIC_ACQUIRE) != LOCK_FREE)
		futex(lock, FUTEX_WAIT_PRIVATE, LOCK_AWAITED);
}

void kport_lock_wake(struct kport_lock *lock)
{
	futex(lock, FUTEX_WAKE_PRIVATE, 1);
}
