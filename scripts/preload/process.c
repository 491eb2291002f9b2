/* SPDX-License-Identifier: MIT */
/* malloc in a process: threads that come and go, fork among them, limits, the time before main and after it. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "probe.h"

static uint64_t random_state = RANDOM_SEED;

static volatile bool stop_churning;

/* Allocate, fill, check and free until told to stop, or for so many steps. */
static void churn(uint64_t seed, size_t n_steps)
{
	enum { SLOTS = 64 };
	unsigned char *slots[SLOTS] = { NULL };
	size_t sizes[SLOTS] = { 0 };

	for (size_t step = 0; step < n_steps && !stop_churning; step++) {
		uint64_t r = random_next(&seed);
		size_t i = r % SLOTS;

		CHECK(is_filled(slots[i], (unsigned char)i, sizes[i]));
		sizes[i] = 1 + (r >> 16) % ((size_t)1 << (r >> 8) % 14);
		if (r & 1 << 30) {
			slots[i] = realloc(slots[i], sizes[i]);
		} else {
			free(slots[i]);
			slots[i] = malloc(sizes[i]);
		}
		CHECK(slots[i]);
		memset(slots[i], (int)i, sizes[i]);
	}
	for (size_t i = 0; i < SLOTS; i++)
		free(slots[i]);
}

static void *churn_thread(void *seed)
{
	churn((uintptr_t)seed, SIZE_MAX);
	return NULL;
}

static void *short_thread(void *seed)
{
	churn((uintptr_t)seed, 50);
	/* For another thread to free. */
	return malloc(1 + (uintptr_t)seed % 3000);
}

#define SHORT_THREADS 8000
#define THREADS_AT_ONCE 16

void probe_short_threads(void)
{
	size_t early = 0;

	for (uintptr_t begun = 1; begun < SHORT_THREADS; begun += THREADS_AT_ONCE) {
		pthread_t threads[THREADS_AT_ONCE];

		for (uintptr_t i = 0; i < THREADS_AT_ONCE; i++)
			CHECK(pthread_create(&threads[i], NULL, short_thread, (void *)(begun + i)) == 0);
		for (int i = 0; i < THREADS_AT_ONCE; i++) {
			void *object;

			CHECK(pthread_join(threads[i], &object) == 0 && object);
			free(object);
		}
		if (begun > 1000 && !early)
			early = resident_bytes();
	}
	/* Threads that are gone leave nothing behind. */
	CHECK(resident_bytes() < early + ((size_t)4 << 20));
}

/* One allocates, another frees, for long: memory stays bounded. */
#define PIPE_SLOTS 256
static void *pipe_slots[PIPE_SLOTS];
#define PIPE_OBJECTS 400000

static void *pipe_consumer(void *unused)
{
	for (size_t i = 0; i < PIPE_OBJECTS; i++) {
		void *object;

		while (!(object = __atomic_exchange_n(&pipe_slots[i % PIPE_SLOTS], NULL, __ATOMIC_ACQ_REL)))
			sched_yield();
		free(object);
	}
	return unused;
}

void probe_producer_consumer(void)
{
	pthread_t consumer;
	size_t early = 0;

	CHECK(pthread_create(&consumer, NULL, pipe_consumer, NULL) == 0);
	for (size_t i = 0; i < PIPE_OBJECTS; i++) {
		size_t size = 16 + random_next(&random_state) % 1000;
		void *object = malloc(size);

		memset(object, 3, size);
		while (__atomic_load_n(&pipe_slots[i % PIPE_SLOTS], __ATOMIC_ACQUIRE))
			sched_yield();
		__atomic_store_n(&pipe_slots[i % PIPE_SLOTS], object, __ATOMIC_RELEASE);
		if (i == PIPE_OBJECTS / 10)
			early = resident_bytes();
	}
	pthread_join(consumer, NULL);
	CHECK(resident_bytes() < early + ((size_t)4 << 20));
}

static void allocate_in_handler(void)
{
	free(malloc(500));
}

/* The child of a process whose other threads are inside malloc can allocate, and free what the parent allocated. */
void probe_fork_in_threads(void)
{
	enum { THREADS = 4, FORKS = 200 };
	pthread_t threads[THREADS];
	void *kept = malloc(5000);

	CHECK(pthread_atfork(allocate_in_handler, allocate_in_handler, allocate_in_handler) == 0);
	for (uintptr_t i = 0; i < THREADS; i++)
		CHECK(pthread_create(&threads[i], NULL, churn_thread, (void *)(i + 1)) == 0);
	for (int i = 0; i < FORKS; i++) {
		pid_t child = fork();
		int status;

		CHECK(child >= 0);
		if (child == 0) {
			alarm(20);
			free(kept);
			churn((uint64_t)i + 99, 300);
			pthread_t thread;
			void *object;

			CHECK(pthread_create(&thread, NULL, short_thread, (void *)7) == 0 &&
			      pthread_join(thread, &object) == 0);
			free(object);
			/* fork in the child, too */
			child = i % 10 ? 0 : fork();
			if (child > 0)
				CHECK(waitpid(child, &status, 0) == child && status == 0);
			_exit(0);
		}
		CHECK(waitpid(child, &status, 0) == child);
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	}
	stop_churning = true;
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	stop_churning = false;
	free(kept);
}

/* ---- limits, start and end --------------------------------------------------------------------------------------- */

/* With a limit of address space malloc fails in good order, and works again after frees. */
void probe_address_limit(void)
{
	struct rlimit old, limit;
	void **chain = NULL;
	size_t n = 0;

	CHECK(getrlimit(RLIMIT_AS, &old) == 0);
	limit = old;
	limit.rlim_cur = (rlim_t)256 << 20;
	CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
	for (;;) {
		void **object = (errno = 0, malloc(50000));

		if (!object)
			break;
		*object = chain;
		chain = object;
		n++;
	}
	CHECK(errno == ENOMEM && n * 50000 > (size_t)150 << 20);
	while (chain) {
		void **next = *chain;

		free(chain);
		chain = next;
	}
	void *object = malloc(100 << 20);

	CHECK(object);
	free(object);
	CHECK(setrlimit(RLIMIT_AS, &old) == 0);
}

/* Locked memory cannot be discarded, but calloc gives zeros all the same. */
void probe_locked(void)
{
	/* Not everybody may. */
	if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0)
		return;
	for (int i = 0; i < 3; i++) {
		unsigned char *object = malloc(1 << 20);

		memset(object, 0xff, 1 << 20);
		free(object);
		object = calloc(1, 1 << 20);
		CHECK(object && is_filled(object, 0, 1 << 20));
		free(object);
	}
	CHECK(munlockall() == 0);
}

static void *early_object;

__attribute__((constructor)) static void at_start(void)
{
	early_object = malloc(333);
	memset(early_object, 9, 333);
}

__attribute__((destructor)) static void at_end(void)
{
	free(early_object);
	free(malloc(1234));
}

void probe_start_and_end(void)
{
	CHECK(is_filled(early_object, 9, 333));
	/* Its destructors run after main has returned; the exit status of the whole run tells. */
}
