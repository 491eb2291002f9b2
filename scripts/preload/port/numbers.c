/* SPDX-License-Identifier: MIT */
/* Numbers of threads, asked directly: unique, the lowest that is free, given back, and none for who comes too seldom or too late. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include <kmalloc_port.h>

#define CHECK(condition) ((condition) ? (void)0 : check_failed(#condition, __LINE__))
#define MANY (KPORT_CPUS + 36)
#define FEW 8
#define ROUNDS 100

/* Plain memory that goes with a number from thread to thread, as a cache does. */
static unsigned owners[KPORT_CPUS];
static unsigned n_numbered, highest;
static pthread_barrier_t barrier;
static pthread_key_t late_key;

_Noreturn static void check_failed(const char *text, int line)
{
	fprintf(stderr, "numbers: line %d: not true: %s\n", line, text);
	exit(1);
}

static unsigned begin_often(void)
{
	for (int i = 0; i < 20; i++)
		kport_cpu_begin();
	return kport_cpu();
}

static void leaving(void)
{
	CHECK(owners[kport_cpu()] == 1);
	owners[kport_cpu()] = 0;
}

/* The first destructors come before the number goes, the last ones after. */
static void late(void *rounds)
{
	size_t left = (size_t)rounds;

	if (left == 4)
		CHECK(kport_cpu() < KPORT_CPUS);
	if (left == 1)
		CHECK(begin_often() == KPORT_CPUS);
	else
		CHECK(pthread_setspecific(late_key, (void *)(left - 1)) == 0);
}

static void *work(void *waits)
{
	unsigned number;

	for (int i = 0; i < 4; i++)
		CHECK(kport_cpu() == KPORT_CPUS && kport_cpu_begin() == KPORT_CPUS);
	number = begin_often();
	if (number < KPORT_CPUS) {
		CHECK(owners[number]++ == 0);
		__atomic_add_fetch(&n_numbered, 1, __ATOMIC_RELAXED);
		for (unsigned seen = __atomic_load_n(&highest, __ATOMIC_RELAXED); seen < number;)
			if (__atomic_compare_exchange_n(&highest, &seen, number, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
				break;
		CHECK(pthread_setspecific(late_key, (void *)4) == 0);
	}
	if (waits)
		pthread_barrier_wait(&barrier);
	return NULL;
}

/* They are all alive at once, or else numbers go from those that ended to those that begin, with nothing in between but the port. */
static void run(unsigned n, bool all_at_once)
{
	pthread_t threads[MANY];

	n_numbered = highest = 0;
	CHECK(pthread_barrier_init(&barrier, NULL, n) == 0);
	for (unsigned i = 0; i < n; i++)
		CHECK(pthread_create(&threads[i], NULL, work, (void *)(size_t)all_at_once) == 0);
	for (unsigned i = 0; i < n; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	CHECK(pthread_barrier_destroy(&barrier) == 0);
}

int main(void)
{
	/* Made after the port's key, so its destructor comes later in each round. */
	CHECK(begin_often() == 0);
	owners[0] = 1;
	CHECK(pthread_key_create(&late_key, late) == 0);
	kport_cpu_leaving = leaving;
	for (int i = 0; i < ROUNDS; i++) {
		/* This thread has one too. */
		run(FEW, true);
		CHECK(n_numbered == FEW && highest == FEW);
		if (i % 10 == 0) {
			run(MANY, true);
			CHECK(n_numbered == KPORT_CPUS - 1 && highest == KPORT_CPUS - 1);
			run(MANY, false);
		}
	}
	puts("numbers passed");
	return 0;
}
