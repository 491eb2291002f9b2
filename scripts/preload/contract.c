/* SPDX-License-Identifier: MIT */
/* What malloc and its relatives promise: sizes, alignments, errno, contents, and memory that goes back to the system. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "probe.h"

static uint64_t random_state = RANDOM_SEED;

/* Every name of malloc's family and every operator comes from one library, the preloaded one. */
void probe_loaded(void)
{
	static const char *const names[] = {
		"malloc",
		"calloc",
		"realloc",
		"reallocarray",
		"free",
		"free_sized",
		"free_aligned_sized",
		"posix_memalign",
		"aligned_alloc",
		"memalign",
		"valloc",
		"pvalloc",
		"malloc_usable_size",
		"malloc_trim",
		"__libc_malloc",
		"__libc_calloc",
		"__libc_realloc",
		"__libc_memalign",
		"__libc_free",
		"_Znwm",
		"_Znam",
		"_ZdlPv",
		"_ZdaPv",
		"_ZdlPvm",
		"_ZdaPvm",
		"_ZnwmRKSt9nothrow_t",
		"_ZnamRKSt9nothrow_t",
		"_ZdlPvRKSt9nothrow_t",
		"_ZdaPvRKSt9nothrow_t",
		"_ZnwmSt11align_val_t",
		"_ZnamSt11align_val_t",
		"_ZdlPvSt11align_val_t",
		"_ZdaPvSt11align_val_t",
		"_ZdlPvmSt11align_val_t",
		"_ZdaPvmSt11align_val_t",
		"_ZnwmSt11align_val_tRKSt9nothrow_t",
		"_ZnamSt11align_val_tRKSt9nothrow_t",
		"_ZdlPvSt11align_val_tRKSt9nothrow_t",
		"_ZdaPvSt11align_val_tRKSt9nothrow_t",
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		Dl_info info;
		void *symbol = dlsym(RTLD_DEFAULT, names[i]);

		if (!symbol || !dladdr(symbol, &info) || !strstr(info.dli_fname, "libkmalloc")) {
			fprintf(stderr, "%s is not the preloaded library's\n", names[i]);
			exit(1);
		}
	}
	CHECK(!dlsym(RTLD_DEFAULT, "kheap_alloc") && !dlsym(RTLD_DEFAULT, "preload_alloc"));
}

void probe_malloc(void)
{
	for (size_t size = 0; size < 5000; size = size < 600 ? size + 1 : size + 97) {
		unsigned char *object = malloc(size);

		CHECK(object && is_aligned(object, 16));
		CHECK(malloc_usable_size(object) >= size);
		memset(object, 0xa5, malloc_usable_size(object));
		free(object);
	}
	void *a = malloc(0), *b = malloc(0);

	CHECK(a && b && a != b);
	free(a);
	free(b);
	free(hide(NULL));
	CHECK(malloc_usable_size(hide(NULL)) == 0);
}

void probe_too_large(void)
{
	static const size_t sizes[] = { SIZE_MAX,    SIZE_MAX - 15,  SIZE_MAX - 4096, (size_t)PTRDIFF_MAX + 1,
		                        PTRDIFF_MAX, (size_t)1 << 47 };
	char *kept = malloc(100);

	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		size_t size = hide_size(sizes[i]);
		void *object = kept;

#define FAILS(call) (errno = 0, (call) == NULL && errno == ENOMEM)
		CHECK(FAILS(malloc(size)));
		CHECK(FAILS(calloc(1, size)));
		CHECK(FAILS(calloc(size, 1)));
		CHECK(FAILS(realloc(kept, size)));
		CHECK(FAILS(reallocarray(kept, size, 1)));
		CHECK(FAILS(aligned_alloc(64, size)));
		CHECK(FAILS(memalign(64, size)));
		CHECK(FAILS(valloc(size)));
		CHECK(FAILS(pvalloc(size)));
		errno = 77;
		CHECK(posix_memalign(&object, 64, size) == ENOMEM && object == kept && errno == 77);
	}
	CHECK(FAILS(calloc(hide_size((size_t)1 << 33), (size_t)1 << 33)));
	CHECK(FAILS(reallocarray(kept, hide_size((size_t)1 << 33), (size_t)1 << 33)));
	free(kept);
}

void probe_alignment(void)
{
	for (size_t alignment = 1; alignment <= (size_t)4 << 20; alignment *= 2) {
		for (size_t size = 0; size < 300000; size = size * 3 + 1) {
			void *objects[4] = { aligned_alloc(alignment, size), memalign(alignment, size), NULL, NULL };

			if (alignment >= sizeof(void *))
				CHECK(posix_memalign(&objects[2], alignment, size) == 0 && objects[2]);
			CHECK(objects[0] && objects[1]);
			for (int i = 0; i < 3; i++) {
				if (!objects[i])
					continue;
				CHECK(is_aligned(objects[i], alignment) && malloc_usable_size(objects[i]) >= size);
				memset(objects[i], 0x5a, size);
				objects[i] = i == 1 ? realloc(objects[i], size + 50) : objects[i];
				CHECK(is_filled(objects[i], 0x5a, size));
				free(objects[i]);
			}
		}
	}
	void *v = valloc(100), *p = pvalloc(4097), *p0 = pvalloc(0), *m = memalign(48, 10);

	CHECK(v && p && p0 && m && is_aligned(v, 4096) && is_aligned(p, 4096) && is_aligned(p0, 4096) &&
	      is_aligned(m, 64));
	CHECK(malloc_usable_size(p) >= 8192 && malloc_usable_size(p0) >= 4096);
	free(v);
	free(p);
	free(p0);
	free(m);
}

void probe_wrong_alignment(void)
{
	void *object = &object;

	errno = 77;
	CHECK(posix_memalign(&object, hide_size(0), 8) == EINVAL && posix_memalign(&object, hide_size(4), 8) == EINVAL);
	CHECK(posix_memalign(&object, hide_size(24), 8) == EINVAL &&
	      posix_memalign(&object, hide_size(3), 8) == EINVAL);
	CHECK(object == &object && errno == 77);
	CHECK((errno = 0, aligned_alloc(hide_size(0), 8)) == NULL && errno == EINVAL);
	CHECK((errno = 0, aligned_alloc(hide_size(24), 8)) == NULL && errno == EINVAL);
	CHECK((errno = 0, memalign(hide_size(SIZE_MAX), 8)) == NULL && errno == EINVAL);
	CHECK((errno = 0, aligned_alloc(hide_size((size_t)1 << 63), 8)) == NULL && errno == ENOMEM);
	CHECK((errno = 0, memalign(hide_size((size_t)1 << 63), 8)) == NULL && errno == ENOMEM);
}

/* Success leaves errno alone, and so does free, also when it gives memory back to the system. */
void probe_errno(void)
{
	errno = 77;
	for (size_t size = 1; size < (size_t)256 << 20; size *= 4) {
		char *object = malloc(size);

		object[0] = object[size - 1] = 1;
		object = realloc(object, size + size / 2);
		free(calloc(1, size));
		free(object);
	}
	malloc_trim(0);
	CHECK(errno == 77);
}

/* calloc gives zeros where free memory is full of something else, at every size. */
void probe_calloc(void)
{
	for (size_t size = 1; size < (size_t)3 << 20; size = size * 5 / 4 + 3) {
		for (int round = 0; round < 3; round++) {
			unsigned char *dirty = malloc(size + (size_t)round * 50);

			memset(dirty, 0xff, size);
			free(dirty);
			unsigned char *object = calloc(round ? size : 1, round ? 1 : size);

			CHECK(object && is_filled(object, 0, size));
			memset(object, 0xee, size);
			free(object);
		}
	}
	/* Nobody touches it: it costs address space only. */
	size_t before = resident_bytes();
	char *vast = calloc(1, (size_t)1 << 30);

	CHECK(vast && vast[(size_t)1 << 29] == 0 && resident_bytes() - before < (size_t)16 << 20);
	free(vast);
}

void probe_realloc(void)
{
	unsigned char *object = realloc(NULL, 10);

	CHECK(object);
	CHECK(realloc(object, hide_size(0)) == NULL); /* freed, as the C library does */
	object = realloc(NULL, hide_size(0));
	CHECK(object);
	/* A random walk over sizes, the content watched. */
	size_t size = 0;

	for (int i = 0; i < 6000; i++) {
		uint64_t r = random_next(&random_state);
		size_t wanted = 1 + (r >> 8) % ((size_t)1 << (r % 20));
		unsigned char value = (unsigned char)i;

		object = reallocarray(object, wanted, 1);
		CHECK(object && is_aligned(object, 16) && malloc_usable_size(object) >= wanted);
		CHECK(is_filled(object, (unsigned char)(value - 1), size < wanted ? size : wanted));
		memset(object, value, wanted);
		size = wanted;
		if (i % 100 == 99 && free_sized) {
			free_sized(object, size);
			object = NULL;
			size = 0;
		}
	}
	free(object);
	for (object = NULL, size = 1; size <= (size_t)64 << 20; size *= 2) {
		object = realloc(object, size);
		CHECK(object);
		object[size - 1] = 7;
		CHECK(size == 1 || object[size / 2 - 1] == 7);
	}
	free(object);
}

void probe_sized(void)
{
	CHECK(free_sized && free_aligned_sized);
	for (size_t size = 0; size < 200000; size = size * 5 / 4 + 1) {
		free_sized(malloc(size), size);
		free_sized(calloc(1, size), size);
		for (size_t alignment = 1; alignment <= 8192; alignment *= 2)
			free_aligned_sized(aligned_alloc(alignment, size), alignment, size);
	}
	free_sized(NULL, 5);
	free_aligned_sized(NULL, 8, 5);
	/* What changed its size has the size that was asked for last. */
	for (size_t size = 1000; size < (size_t)8 << 20; size = size * 5 / 4) {
		void *less = realloc(malloc(size), size - size / 16), *more = malloc(size), *behind = malloc(size);

		more = realloc(more, size + size / 7);
		free_sized(less, size - size / 16);
		free_sized(more, size + size / 7);
		free(behind);
	}
}

/* What no memory can meet is refused before anything is made for it. */
void probe_vast(void)
{
	size_t before = resident_bytes();

	for (unsigned shift = 42; shift < 63; shift++) {
		void *object = malloc(hide_size((size_t)1 << shift));

		/* A kernel that promises everything may give address space for it. */
		CHECK(object || resident_bytes() - before < (size_t)4 << 20);
		free(object);
	}
}

/* Large objects that move again and again, so that they lie in several mappings, keep what is in them. */
void probe_moving(void)
{
	size_t *object = malloc((size_t)8 << 20), n_stamped = 0, n_moved = 0;
	void *behind = NULL;

	for (size_t size = (size_t)8 << 20; size < (size_t)150 << 20; size += size / 2) {
		const size_t *old = object;

		object = realloc(object, size);
		CHECK(object);
		n_moved += object != old;
		for (size_t i = 0; i < n_stamped; i++)
			CHECK(object[i * 512] == i);
		for (; n_stamped < size / 4096; n_stamped++)
			object[n_stamped * 512] = n_stamped;
		/* No hole that the object left is large enough for this: it lies in the way when the object grows. */
		free(behind);
		behind = malloc(size);
		old = object;
		object = realloc(object, size + 5000);
		n_moved += object != old;
	}
	free(behind);
	CHECK(n_moved > 1);
	free(object);
}

/* Aligned objects of one size, freed and taken again: the holes are found again. */
void probe_aligned_reuse(void)
{
	void *objects[64];
	size_t peak = 0;

	for (int round = 0; round < 400; round++) {
		for (int i = 0; i < 64; i++)
			memset(objects[i] = aligned_alloc(256, 400), round, 400);
		for (int i = 0; i < 64; i++)
			free(objects[(i * 37) % 64]);
		if (round == 50)
			peak = resident_bytes();
	}
	CHECK(resident_bytes() < peak + ((size_t)2 << 20));
}

#define TRIM_OBJECTS ((size_t)65536)

/* All is freed but one object in a hundred: what lies between goes back when asked for, what is live stays whole. */
void probe_trim(void)
{
	static unsigned char *objects[TRIM_OBJECTS];
	size_t before = resident_bytes();

	for (size_t i = 0; i < TRIM_OBJECTS; i++)
		memset(objects[i] = malloc(1000), (int)i, 1000);
	size_t full = resident_bytes();

	CHECK(full - before > TRIM_OBJECTS * 1000);
	for (size_t i = 0; i < TRIM_OBJECTS; i++)
		if (i % 1000)
			free(objects[i]);
	int trimmed = malloc_trim(0);
	bool is_hardened = getenv("PROBE_HARDENED") != NULL;

	/* The hardened build keeps poison in free pages, so it gives back whole chunks only. */
	CHECK(is_hardened || (trimmed == 1 && resident_bytes() - before < (full - before) / 4));
	for (size_t i = 0; i < TRIM_OBJECTS; i += 1000) {
		CHECK(is_filled(objects[i], (unsigned char)i, 1000));
		free(objects[i]);
	}
	malloc_trim(0);
	CHECK(resident_bytes() - before < (full - before) / 4);
}

/* What is freed goes back without being asked for. */
void probe_returns(void)
{
	static void *objects[TRIM_OBJECTS];
	bool is_hardened = getenv("PROBE_HARDENED") != NULL;
	size_t before = resident_bytes(), most = 0;

	for (int round = 0; round < 3; round++) {
		size_t size = round == 0 ? 1500 : round == 1 ? 250 : 200000, n = round == 2 ? 500 : TRIM_OBJECTS;

		for (size_t i = 0; i < n; i++)
			memset(objects[i] = malloc(size), 1, size);
		size_t full = resident_bytes();

		/* What is taken again at once after it went back makes the library wait some milliseconds the next time. */
		usleep(100000);
		for (size_t i = 0; i < n; i++)
			free(objects[i]);
		/* The hardened build keeps some chunks of the largest round. */
		most = is_hardened && most > full ? most : full;
		CHECK(full - before > size * n && resident_bytes() - before < (most - before) / 2 + ((size_t)4 << 20));
	}
}

/* So does what is freed at random in one go, if the program does only a little from then on. */
void probe_returns_late(void)
{
	enum { OBJECTS = 400000, ROUNDS = 100, FEW = 100, TRIES = 4 };
	static void *objects[OBJECTS];
	uint64_t state = RANDOM_SEED;
	size_t before = resident_bytes();

	for (size_t i = 0; i < OBJECTS; i++) {
		size_t size = 20 + random_next(&state) % 250;

		memset(objects[i] = malloc(size), 1, size);
	}
	size_t full = resident_bytes();

	for (size_t i = OBJECTS; i > 0; i--) {
		size_t j = random_next(&state) % i;
		void *object = objects[j];

		objects[j] = objects[i - 1];
		free(object);
	}
	/* One is enough, unless the machine is so busy that the frees took seconds. */
	for (int tries = 0; tries < TRIES && resident_bytes() - before >= (full - before) / 4; tries++) {
		usleep(1200000);
		for (size_t i = 0; i < ROUNDS; i++) {
			for (size_t j = 0; j < FEW; j++)
				objects[j] = malloc(20 + random_next(&state) % 250);
			for (size_t j = 0; j < FEW; j++)
				free(objects[j]);
		}
	}
	CHECK(full - before > (size_t)50 << 20 && resident_bytes() - before < (full - before) / 4);
}

/*
 * And what is freed at random among objects that stay, so that the holes between them are short, while the program goes on with a little. Nobody
 * waits for more than it takes.
 */
void probe_returns_holes(void)
{
	enum { OBJECTS = 30000, STAYS = 10, ROUNDS = 200, FEW = 100, TRIES = 300 };
	static unsigned char *objects[OBJECTS];
	uint64_t state = RANDOM_SEED;
	size_t before = resident_bytes(), full, left;
	void *few[FEW];

	/* In the hardened build free pages hold poison. */
	if (getenv("PROBE_HARDENED"))
		return;
	for (size_t i = 0; i < OBJECTS; i++) {
		size_t size = 300 + random_next(&state) % 3700;

		memset(objects[i] = malloc(size), (int)i, size);
	}
	full = left = resident_bytes();
	for (size_t i = 0; i < OBJECTS; i++) {
		if (random_next(&state) % STAYS) {
			free(objects[i]);
			objects[i] = NULL;
		}
	}
	for (int tries = 0; tries < TRIES && left - before >= (full - before) * 2 / 5; tries++) {
		usleep(100000);
		for (size_t i = 0; i < ROUNDS; i++) {
			for (size_t j = 0; j < FEW; j++)
				few[j] = malloc(300 + random_next(&state) % 3700);
			for (size_t j = 0; j < FEW; j++)
				free(few[j]);
		}
		left = resident_bytes();
	}
	CHECK(full - before > (size_t)50 << 20 && left - before < (full - before) * 2 / 5);
	for (size_t i = 0; i < OBJECTS; i++) {
		CHECK(!objects[i] || is_filled(objects[i], (unsigned char)i, 300));
		free(objects[i]);
	}
}

/* The last part dies late, and all that is done from then on is done in caches. */
void probe_returns_last(void)
{
	enum { OBJECTS = 200000, STAYS = 50, FEW = 50, TRIES = 300 };
	static unsigned char *objects[OBJECTS];
	uint64_t state = RANDOM_SEED;
	size_t before = resident_bytes(), full, left;

	if (getenv("PROBE_HARDENED"))
		return;
	for (size_t i = 0; i < OBJECTS; i++) {
		size_t size = 16 + random_next(&state) % 400;

		memset(objects[i] = malloc(size), (int)i, size);
	}
	full = left = resident_bytes();
	for (size_t i = 0; i < OBJECTS; i++) {
		if (i % STAYS)
			free(objects[i]);
	}
	for (int tries = 0; tries < TRIES && left - before >= (full - before) * 2 / 5; tries++) {
		usleep(100000);
		for (size_t i = 0; i < FEW; i++)
			free(malloc(100 + i));
		for (size_t i = 0; tries == 5 && i < OBJECTS; i += STAYS) {
			CHECK(is_filled(objects[i], (unsigned char)i, 16));
			free(objects[i]);
		}
		left = tries > 5 ? resident_bytes() : full;
	}
	CHECK(full - before > (size_t)30 << 20 && left - before < (full - before) * 2 / 5);
}

static size_t minor_faults(void)
{
	struct rusage usage;

	CHECK(getrusage(RUSAGE_SELF, &usage) == 0);
	return (size_t)usage.ru_minflt;
}

/* What is needed again soon after it went back does not go back each time: at first, then once in a second. */
void probe_refill(void)
{
	enum { N = 30000, SIZE = 1500, ROUNDS = 20, AT_FIRST = 5 };
	static void *objects[N];
	size_t first = 0, before = minor_faults();
	time_t start = time(NULL);

	/* The hardened build gives whole chunks back at once. */
	if (getenv("PROBE_HARDENED"))
		return;

	for (int round = 0; round < ROUNDS; round++) {
		for (size_t i = 0; i < N; i++)
			memset(objects[i] = malloc(SIZE), 1, SIZE);
		for (size_t i = N; i--;)
			free(objects[i]);
		first = round ? first : minor_faults() - before;
	}
	CHECK(minor_faults() - before <= first * (AT_FIRST + (size_t)(time(NULL) - start)));
}

/* Of a large table of zeros, made again and again, only what is used is in memory. */
void probe_sparse_zeros(void)
{
	enum { ROUNDS = 20, USED = 200, MOST_FAULTS = 1000 };
	size_t size = (size_t)16 << 20, before = 0;

	if (getenv("PROBE_HARDENED"))
		return;
	for (int round = 0; round < ROUNDS; round++) {
		unsigned char *table = calloc(1, size);

		/* The first ones are how it comes to go back at all. */
		before = round == ROUNDS / 2 ? minor_faults() : before;
		CHECK(table);
		for (size_t i = 0; i < USED; i++) {
			CHECK(table[i * (size / USED)] == 0);
			table[i * (size / USED)] = 1;
		}
		CHECK(table[size - 1] == 0);
		free(table);
	}
	CHECK((minor_faults() - before) / (ROUNDS / 2) < MOST_FAULTS);
}

/* What is allocated in turn lies in turn, upwards: programs read it so, and processors fetch ahead. */
void probe_order(void)
{
	enum { N = 20000 };
	static uintptr_t objects[2][N];
	int n_upwards = 0;

	for (int i = 0; i < N; i++) {
		objects[0][i] = (uintptr_t)malloc(56);
		objects[1][i] = (uintptr_t)malloc(32);
	}
	for (int i = 1; i < N; i++)
		n_upwards += (objects[0][i] - objects[0][i - 1] <= 128) + (objects[1][i] - objects[1][i - 1] <= 128);
	CHECK(n_upwards > 2 * N * 9 / 10);
	for (int i = 0; i < N; i++) {
		free((void *)objects[0][i]);
		free((void *)objects[1][i]);
	}
}

/* A large object that grows little by little keeps its bytes, and is not copied each time. */
void probe_growing(void)
{
	bool is_hardened = getenv("PROBE_HARDENED") != NULL;
	size_t step = 100000, most = (is_hardened ? 100 : 600) * step;
	unsigned char *objects[2] = { NULL, NULL };
	int n_moves = 0;

	for (size_t size = step; size <= most; size += step) {
		for (int i = 0; i < 2; i++) {
			unsigned char *grown = realloc(objects[i], size);

			CHECK(grown && malloc_usable_size(grown) >= size);
			n_moves += grown != objects[i];
			memset(grown + size - step, (int)(size / step + (size_t)i), step);
			objects[i] = grown;
		}
	}
	/* Two at once, so that neither can always grow where it is. */
	CHECK(is_hardened || n_moves < 200);
	CHECK(is_hardened || peak_resident_bytes() < 2 * most + most / 2);
	for (int i = 0; i < 2; i++) {
		for (size_t at = 0; at < most; at += step)
			CHECK(is_filled(objects[i] + at, (unsigned char)(at / step + 1 + (size_t)i), step));
		objects[i] = realloc(objects[i], step);
		CHECK(objects[i] && is_filled(objects[i], (unsigned char)(1 + i), step));
		CHECK(malloc_usable_size(objects[i]) < 2 * step);
		free(objects[i]);
	}
}
