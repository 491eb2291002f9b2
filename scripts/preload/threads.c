/* SPDX-License-Identifier: MIT */
/* malloc in threads: that come and go, that are many, that free what others allocated, and that end with objects in their hands. */
#define _GNU_SOURCE
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "probe.h"

#define MIB ((size_t)1 << 20)

/* Sizes of 1 byte to 16 KiB, small ones most often. */
static size_t random_size(uint64_t r)
{
	return 1 + (r >> 16) % ((size_t)1 << (r >> 8) % 15);
}

void churn(uint64_t seed, size_t n_steps)
{
	enum { SLOTS = 64 };
	unsigned char *slots[SLOTS] = { NULL };
	size_t sizes[SLOTS] = { 0 };
	uint64_t state = seed * UINT64_C(0x9E3779B97F4A7C15) + RANDOM_SEED;

	for (size_t step = 0; step < n_steps; step++) {
		uint64_t r = random_next(&state);
		size_t i = r % SLOTS;

		CHECK(is_filled(slots[i], (unsigned char)i, sizes[i]));
		sizes[i] = random_size(r);
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

void *short_thread(void *seed)
{
	churn((uintptr_t)seed, 50);
	return malloc(1 + (uintptr_t)seed % 3000);
}

/* ---- threads that come and go ------------------------------------------------------------------------------------ */

#define SHORT_THREADS 20000
#define THREADS_AT_ONCE 8

/*
 * Threads that are gone leave nothing behind. How much caches hold while they come and go is chance, more on a busy machine; what is left
 * once these are emptied is not.
 */
void probe_short_threads(void)
{
	size_t first = resident_bytes();

	for (uintptr_t begun = 1; begun < SHORT_THREADS; begun += THREADS_AT_ONCE) {
		pthread_t threads[THREADS_AT_ONCE];

		for (uintptr_t i = 0; i < THREADS_AT_ONCE; i++)
			CHECK(pthread_create(&threads[i], NULL, short_thread, (void *)(begun + i)) == 0);
		for (int i = 0; i < THREADS_AT_ONCE; i++) {
			void *object;

			CHECK(pthread_join(threads[i], &object) == 0 && object);
			free(object);
		}
	}
	CHECK(peak_resident_bytes() < 16 * MIB);
	(void)malloc_trim(0);
	CHECK(resident_bytes() < first + MIB);
}

#define DETACHED_ROUNDS 100
/* With this many at once the C library lets go of stacks when they end. */
#define DETACHED_AT_ONCE 30

static unsigned n_waiting, n_ended;
static bool may_end;

static void *detached_thread(void *unused)
{
	__atomic_add_fetch(&n_waiting, 1, __ATOMIC_ACQ_REL);
	while (!__atomic_load_n(&may_end, __ATOMIC_ACQUIRE))
		sched_yield();
	__atomic_add_fetch(&n_ended, 1, __ATOMIC_ACQ_REL);
	return unused;
}

/*
 * Threads that never allocate: the C library frees what belongs to the stacks of earlier ones in them, after their last destructor.
 * However many there were, there must be room for threads that do allocate.
 */
void probe_detached_threads(void)
{
	pthread_attr_t attributes;
	size_t early = 0;

	CHECK(pthread_attr_init(&attributes) == 0);
	CHECK(pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED) == 0);
	for (int round = 0; round < DETACHED_ROUNDS; round++) {
		n_waiting = n_ended = 0;
		may_end = false;
		for (int i = 0; i < DETACHED_AT_ONCE; i++) {
			pthread_t thread;

			CHECK(pthread_create(&thread, &attributes, detached_thread, NULL) == 0);
		}
		while (__atomic_load_n(&n_waiting, __ATOMIC_ACQUIRE) < DETACHED_AT_ONCE)
			sched_yield();
		__atomic_store_n(&may_end, true, __ATOMIC_RELEASE);
		while (__atomic_load_n(&n_ended, __ATOMIC_ACQUIRE) < DETACHED_AT_ONCE)
			sched_yield();
		if (round == DETACHED_ROUNDS / 3)
			early = resident_bytes();
	}
	CHECK(pthread_attr_destroy(&attributes) == 0);
	CHECK(resident_bytes() < early + MIB);
}

/* ---- many threads ------------------------------------------------------------------------------------------------- */

/* More than have a cache of their own. */
#define MANY_THREADS 600
#define OBJECTS_EACH 100

static unsigned char *many_objects[MANY_THREADS][OBJECTS_EACH];
static pthread_barrier_t barrier;

static size_t many_size(size_t index, size_t i)
{
	return 1 + (index * 37 + i * 101) % 2000;
}

/* All allocate, then each frees another's. */
static void *many_thread(void *argument)
{
	size_t index = (uintptr_t)argument, other = (index + MANY_THREADS / 2 + 1) % MANY_THREADS;

	for (int round = 0; round < 2; round++) {
		for (size_t i = 0; i < OBJECTS_EACH; i++) {
			size_t size = many_size(index, i);

			many_objects[index][i] = malloc(size);
			CHECK(many_objects[index][i]);
			memset(many_objects[index][i], (int)index, size);
		}
		pthread_barrier_wait(&barrier);
		for (size_t i = 0; i < OBJECTS_EACH; i++) {
			CHECK(is_filled(many_objects[other][i], (unsigned char)other, many_size(other, i)));
			free(many_objects[other][i]);
		}
		pthread_barrier_wait(&barrier);
	}
	return NULL;
}

void probe_many_threads(void)
{
	static pthread_t threads[MANY_THREADS];
	pthread_attr_t attributes;

	CHECK(pthread_barrier_init(&barrier, NULL, MANY_THREADS) == 0);
	CHECK(pthread_attr_init(&attributes) == 0 && pthread_attr_setstacksize(&attributes, (size_t)128 << 10) == 0);
	for (uintptr_t i = 0; i < MANY_THREADS; i++)
		CHECK(pthread_create(&threads[i], &attributes, many_thread, (void *)i) == 0);
	for (size_t i = 0; i < MANY_THREADS; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	CHECK(pthread_attr_destroy(&attributes) == 0 && pthread_barrier_destroy(&barrier) == 0);
	malloc_trim(0);
	/* 60 MB were live; stacks of ended threads stay with the C library. */
	CHECK(resident_bytes() < 48 * MIB && peak_resident_bytes() < 160 * MIB);
}

/* ---- the end of a thread ------------------------------------------------------------------------------------------ */

static pthread_key_t late_key;

/* Each round of destructors allocates and frees, up to the last one that there is. */
static void late_destructor(void *value)
{
	unsigned char **objects = value;

	CHECK(is_filled(objects[1], 7, 500));
	free(objects[1]);
	churn((uintptr_t)value, 30);
	objects[1] = malloc(500);
	memset(objects[1], 7, 500);
	if (--*(size_t *)objects > 0) {
		CHECK(pthread_setspecific(late_key, value) == 0);
		return;
	}
	free(objects[1]);
	free(objects);
}

static void *late_thread(void *argument)
{
	unsigned char **objects = malloc(2 * sizeof(*objects));

	if (argument)
		churn((uintptr_t)argument, 100);
	*(size_t *)objects = PTHREAD_DESTRUCTOR_ITERATIONS;
	objects[1] = malloc(500);
	memset(objects[1], 7, 500);
	CHECK(pthread_setspecific(late_key, objects) == 0);
	return NULL;
}

/* Destructors of threads may use malloc, in every round of them. */
void probe_late_frees(void)
{
	size_t early = 0;

	CHECK(pthread_key_create(&late_key, late_destructor) == 0);
	for (uintptr_t i = 0; i < 3000; i++) {
		pthread_t thread;

		CHECK(pthread_create(&thread, NULL, late_thread, (void *)(i % 3)) == 0 &&
		      pthread_join(thread, NULL) == 0);
		if (i == 1000)
			early = resident_bytes();
	}
	CHECK(resident_bytes() < early + MIB);
}

/* ---- objects that are freed elsewhere ------------------------------------------------------------------------------ */

#define PIPE_SLOTS 1024
#define PIPE_OBJECTS 2000000

static void *pipe_slots[PIPE_SLOTS];

static void *pipe_consumer(void *unused)
{
	for (size_t i = 0; i < PIPE_OBJECTS; i++) {
		unsigned char *object;

		while (!(object = __atomic_exchange_n(&pipe_slots[i % PIPE_SLOTS], NULL, __ATOMIC_ACQ_REL)))
			sched_yield();
		CHECK(*object == (unsigned char)i);
		free(object);
	}
	return unused;
}

/* One allocates, another frees, for long: memory stays bounded, at every moment. */
void probe_producer_consumer(void)
{
	uint64_t state = RANDOM_SEED;
	pthread_t consumer;
	size_t early = 0;

	CHECK(pthread_create(&consumer, NULL, pipe_consumer, NULL) == 0);
	for (size_t i = 0; i < PIPE_OBJECTS; i++) {
		unsigned char *object = malloc(random_size(random_next(&state)));

		CHECK(object);
		*object = (unsigned char)i;
		while (__atomic_load_n(&pipe_slots[i % PIPE_SLOTS], __ATOMIC_ACQUIRE))
			sched_yield();
		__atomic_store_n(&pipe_slots[i % PIPE_SLOTS], object, __ATOMIC_RELEASE);
		if (i == PIPE_OBJECTS / 10)
			early = peak_resident_bytes();
	}
	pthread_join(consumer, NULL);
	CHECK(early < 24 * MIB && peak_resident_bytes() < early + 4 * MIB);
}

/* ---- many threads, each with its own ------------------------------------------------------------------------------ */

#define CROWD_THREADS 64
#define CROWD_OBJECTS 50
#define CROWD_STEPS 4000
#define CROWD_LIVE_BYTES 800000 /* of a thread, about: objects of 16 bytes to 128 KiB, as many of each octave */
#define CROWD_SHARE 3           /* times that is resident at most */

static pthread_barrier_t crowd_barrier;

static void *crowd_thread(void *seed)
{
	void *objects[CROWD_OBJECTS] = { NULL };
	uint64_t state = (uintptr_t)seed * UINT64_C(0x9E3779B97F4A7C15);

	for (size_t step = 0; step < CROWD_STEPS; step++) {
		uint64_t r = random_next(&state);
		size_t octave = (size_t)16 << (r >> 8) % 13, size = octave + (r >> 32) % octave;
		void **object = &objects[r % CROWD_OBJECTS];

		free(*object);
		*object = malloc(size);
		CHECK(*object);
		memset(*object, 9, size);
	}
	pthread_barrier_wait(&crowd_barrier);
	pthread_barrier_wait(&crowd_barrier);
	for (size_t i = 0; i < CROWD_OBJECTS; i++)
		free(objects[i]);
	return NULL;
}

/* What each keeps for itself is little if they are many: the heap is not several times as large as what is live. */
void probe_crowd(void)
{
	pthread_t threads[CROWD_THREADS];

	CHECK(pthread_barrier_init(&crowd_barrier, NULL, CROWD_THREADS + 1) == 0);
	for (uintptr_t i = 0; i < CROWD_THREADS; i++)
		CHECK(pthread_create(&threads[i], NULL, crowd_thread, (void *)(i + 1)) == 0);
	pthread_barrier_wait(&crowd_barrier);
	CHECK(resident_bytes() < (size_t)CROWD_THREADS * CROWD_LIVE_BYTES * CROWD_SHARE);
	pthread_barrier_wait(&crowd_barrier);
	for (int i = 0; i < CROWD_THREADS; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
}

/* ---- a spike -------------------------------------------------------------------------------------------------------- */

#define SPIKE_THREADS 4
#define SPIKE_BYTES (48 * MIB)
/* A spike goes back by itself to half of it at least, and to a tenth when trimmed. */
#define LEFT_SHARE 2
#define TRIMMED_SHARE 10
/* It gives back whole chunks only, and what a thread's end leaves to the next one holds one of the largest. */
#define TRIMMED_SHARE_HARDENED 5

struct spike {
	uint64_t seed;
	void *list;
};

static void *spike_up(void *argument)
{
	struct spike *spike = argument;

	for (size_t total = 0; total < SPIKE_BYTES;) {
		size_t size = sizeof(void *) + random_size(random_next(&spike->seed));
		void **object = malloc(size);

		CHECK(object);
		memset(object, 5, size);
		*object = spike->list;
		spike->list = object;
		total += size;
	}
	return NULL;
}

static void *spike_down(void *argument)
{
	struct spike *spike = argument;

	while (spike->list) {
		void *object = spike->list;

		spike->list = *(void **)object;
		free(object);
	}
	return NULL;
}

static void in_threads(void *(*function)(void *), struct spike *spikes)
{
	pthread_t threads[SPIKE_THREADS];

	for (int i = 0; i < SPIKE_THREADS; i++)
		CHECK(pthread_create(&threads[i], NULL, function, &spikes[i]) == 0);
	for (int i = 0; i < SPIKE_THREADS; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
}

/* The program goes on, with little memory, for at most three seconds. */
static void go_on_until(size_t resident)
{
	enum { N_OBJECTS = 20000, N_TRIES = 30 };
	static void *objects[N_OBJECTS];

	for (int try = 0; try < N_TRIES && resident_bytes() >= resident; try++) {
		CHECK(nanosleep(&(struct timespec){ .tv_nsec = 100000000 }, NULL) == 0);
		for (int i = 0; i < N_OBJECTS; i++)
			objects[i] = malloc(300);
		for (int i = 0; i < N_OBJECTS; i++)
			free(objects[i]);
	}
}

/* Much memory for a moment: most of it goes back by itself, the rest when asked for. */
void probe_spike(void)
{
	struct spike spikes[SPIKE_THREADS] = { { 1, NULL }, { 2, NULL }, { 3, NULL }, { 4, NULL } };
	size_t before, full;

	malloc_trim(0);
	before = resident_bytes();
	for (int round = 0; round < 2; round++) {
		in_threads(spike_up, spikes);
		full = resident_bytes();
		CHECK(full - before > SPIKE_THREADS * SPIKE_BYTES);
		/* By other threads than allocated, in the second round by this one alone. */
		if (round == 0)
			in_threads(spike_down, spikes);
		for (int i = 0; i < SPIKE_THREADS; i++)
			spike_down(&spikes[i]);
		go_on_until(before + (full - before) / LEFT_SHARE);
		CHECK(resident_bytes() - before < (full - before) / LEFT_SHARE);
	}
	malloc_trim(0);
	bool is_hardened = getenv("PROBE_HARDENED") != NULL;

	CHECK(resident_bytes() - before < (full - before) / (is_hardened ? TRIMMED_SHARE_HARDENED : TRIMMED_SHARE));
}
