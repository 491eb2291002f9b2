/* SPDX-License-Identifier: MIT */
/*
 * Functions on several CPUs at once: threads, each bound to a CPU of its own.
 * They start together, because the first of them would otherwise work alone for
 * as long as it takes to make the last.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>

#include "linux_host.h"

#define MAX_THREADS 64

enum signal { WAIT, GO, GO_HOME };

struct gang {
	void (*function)(void *ctx, unsigned index);
	void *ctx;
	unsigned n_ready;
	enum signal signal;
};

struct member {
	struct gang *gang;
	unsigned index;
	int cpu; /* or -1 */
};

static void *run_member(void *argument)
{
	struct member *member = argument;
	enum signal signal;
	cpu_set_t cpus;

	if (member->cpu >= 0) {
		CPU_ZERO(&cpus);
		CPU_SET((unsigned)member->cpu, &cpus);
		pthread_setaffinity_np(pthread_self(), sizeof(cpus), &cpus);
	}
	__atomic_add_fetch(&member->gang->n_ready, 1, __ATOMIC_ACQ_REL);
	while ((signal = __atomic_load_n(&member->gang->signal, __ATOMIC_ACQUIRE)) == WAIT)
		sched_yield();
	if (signal == GO)
		member->gang->function(member->gang->ctx, member->index);
	return NULL;
}

/* The n-th CPU that this process may use, or -1. */
static int nth_cpu(unsigned n)
{
	cpu_set_t cpus;

	if (sched_getaffinity(0, sizeof(cpus), &cpus) != 0)
		return -1;
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET((unsigned)cpu, &cpus) && n-- == 0)
			return cpu;
	return -1;
}

static bool run_parallel(struct host *host, unsigned n, void (*function)(void *ctx, unsigned index), void *ctx)
{
	struct gang gang = { .function = function, .ctx = ctx };
	struct member members[MAX_THREADS];
	pthread_t threads[MAX_THREADS];
	unsigned n_made = 0;

	(void)host;
	if (n == 0 || n > MAX_THREADS)
		return false;
	/* This thread waits; only the others work. */
	for (; n_made < n; n_made++) {
		members[n_made] = (struct member){ &gang, n_made, nth_cpu(n_made) };
		if (pthread_create(&threads[n_made], NULL, run_member, &members[n_made]) != 0)
			break;
	}
	while (__atomic_load_n(&gang.n_ready, __ATOMIC_ACQUIRE) < n_made)
		sched_yield();
	__atomic_store_n(&gang.signal, n_made == n ? GO : GO_HOME, __ATOMIC_RELEASE);
	for (unsigned i = 0; i < n_made; i++)
		pthread_join(threads[i], NULL);
	return n_made == n;
}

static void yield(struct host *host)
{
	(void)host;
	sched_yield();
}

void linux_parallel_begin(struct host *host)
{
	host->yield = yield;
	host->run_parallel = run_parallel;
}
