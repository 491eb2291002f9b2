/* SPDX-License-Identifier: MIT */
/*
 * The page source: anonymous memory from mmap. Tries what is wanted and halves down to what is needed, leaves the
 * machine a share, and puts back whole chunks only.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "linux_host.h"

/* What other programs keep; half of what there is where that is too much. */
#define SHARE_OF_OTHERS (UINT64_C(64) << 20)
/* Reading /proc/meminfo costs more than a page does. */
#define LIMIT_IS_FRESH_NS UINT64_C(200000000)
/* The kernel maps nothing lower by default. */
#define LOWEST_ADDRESS ((uintptr_t)0x10000)
/* How many places below an address limit are tried. */
#define LOW_TRIES 64
/* Address space behind a chunk that the next ones find free, unless the program takes it. */
#define ROOM_BYTES ((size_t)1 << (sizeof(void *) == 8 ? 30 : 23))

/* A heap calls its page source with no lock held, from whatever thread needs pages. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct host *the_host;
static uint64_t held_bytes, n_held_chunks;

static uint64_t compute_limit(void)
{
	uint64_t available = linux_memory_available();
	uint64_t share = available / 2 < SHARE_OF_OTHERS ? available / 2 : SHARE_OF_OTHERS;
	uint64_t limit = available - share;
	struct rlimit address_space;

	/* A limit of address space (ulimit -v) counts what is mapped already; leave room for the program itself. */
	if (getrlimit(RLIMIT_AS, &address_space) == 0 && address_space.rlim_cur != RLIM_INFINITY) {
		uint64_t used = held_bytes + SHARE_OF_OTHERS;
		uint64_t left = address_space.rlim_cur > used ? address_space.rlim_cur - used : 0;
		if (left < limit)
			limit = left;
	}
	return limit & ~(uint64_t)(KMALLOC_PAGE_SIZE - 1);
}

static uint64_t heap_limit(struct host *host)
{
	(void)host;
	return compute_limit();
}

/* The same as it was a moment ago, less what was taken since. */
static uint64_t recent_limit(void)
{
	static uint64_t limit, held_then, read_at;
	uint64_t now = the_host->ticks(the_host);

	if (read_at == 0 || now - read_at > LIMIT_IS_FRESH_NS) {
		limit = compute_limit();
		held_then = held_bytes;
		read_at = now;
	}
	uint64_t taken = held_bytes > held_then ? held_bytes - held_then : 0;
	return limit > taken ? limit - taken : 0;
}

static void *map(void *hint, size_t size_bytes, int flags)
{
	void *memory = mmap(hint, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
	return memory == MAP_FAILED ? NULL : memory;
}

/* `memory` if it lies below the limit; otherwise it is given back. */
static void *if_below(void *memory, size_t size_bytes, uintptr_t max_address)
{
	if (memory == NULL || (uintptr_t)memory + (size_bytes - 1) <= max_address)
		return memory;
	munmap(memory, size_bytes);
	return NULL;
}

static void *map_below(size_t size_bytes, uintptr_t max_address)
{
	void *memory = if_below(map(NULL, size_bytes, 0), size_bytes, max_address);

#ifdef MAP_32BIT
	if (memory == NULL)
		memory = if_below(map(NULL, size_bytes, MAP_32BIT), size_bytes, max_address);
#endif
	if (max_address < size_bytes)
		return memory;
	/* The kernel knows no limits but that one, so try places from the limit down. */
	uintptr_t place = (max_address - size_bytes + 1) & ~(KMALLOC_PAGE_SIZE - 1);
	for (unsigned i = 0; i < LOW_TRIES && memory == NULL && place >= LOWEST_ADDRESS; i++) {
		memory = if_below(map((void *)place, size_bytes, MAP_FIXED_NOREPLACE), size_bytes, max_address);
		if (place < size_bytes)
			break;
		place -= size_bytes;
	}
	return memory;
}

/*
 * Where more can follow: the kernel places a mapping right below the last one, so behind it there is no room. What is mapped first to find
 * a hole costs nothing.
 */
static void *map_with_room(size_t size_bytes)
{
	size_t with_room = size_bytes + ROOM_BYTES;
	void *hole = mmap(NULL, with_room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (hole == MAP_FAILED)
		return NULL;
	munmap(hole, with_room);
	return map(hole, size_bytes, MAP_FIXED_NOREPLACE);
}

static void *map_best(const struct kpage_request *request, size_t size_bytes)
{
	void *memory = NULL;

	if (request->best_address != 0)
		memory = map((void *)request->best_address, size_bytes, MAP_FIXED_NOREPLACE);
	else if (request->max_address == UINTPTR_MAX)
		memory = map_with_room(size_bytes);
	return memory != NULL ? memory : map_below(size_bytes, request->max_address);
}

static bool get_alone(const struct kpage_request *request, struct kpage_chunk *chunk)
{
	size_t spare = (size_t)(recent_limit() / KMALLOC_PAGE_SIZE), n_pages = request->want_pages;

	if (request->min_pages == 0 || request->min_pages > spare)
		return false;
	if (n_pages > spare)
		n_pages = spare;
	for (;;) {
		void *memory = map_best(request, n_pages * KMALLOC_PAGE_SIZE);
		if (memory != NULL) {
			chunk->base = (uintptr_t)memory;
			chunk->n_pages = n_pages;
			held_bytes += n_pages * KMALLOC_PAGE_SIZE;
			n_held_chunks++;
			return true;
		}
		if (n_pages <= request->min_pages)
			return false;
		n_pages = n_pages / 2 > request->min_pages ? n_pages / 2 : request->min_pages;
	}
}

static bool get(void *ctx, const struct kpage_request *request, struct kpage_chunk *chunk)
{
	bool is_there;

	(void)ctx;
	pthread_mutex_lock(&lock);
	is_there = get_alone(request, chunk);
	pthread_mutex_unlock(&lock);
	return is_there;
}

static void put(void *ctx, const struct kpage_chunk *chunk)
{
	(void)ctx;
	munmap((void *)chunk->base, chunk->n_pages * KMALLOC_PAGE_SIZE);
	pthread_mutex_lock(&lock);
	held_bytes -= chunk->n_pages * KMALLOC_PAGE_SIZE;
	n_held_chunks--;
	pthread_mutex_unlock(&lock);
}

uint64_t linux_pages_held(void)
{
	return n_held_chunks;
}

void linux_pages_begin(struct host *host)
{
	the_host = host;
	host->pages = (struct kpage_source){ .get = get, .put = put };
	host->heap_limit = heap_limit;
}
