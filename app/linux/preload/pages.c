/* SPDX-License-Identifier: MIT */
/*
 * The page source: anonymous memory from mmap. Pages that were never touched cost nothing (MAP_NORESERVE). A free looks first whether the object
 * lies in the heap's first region, and where that holds most of the heap, this is all it looks at: so behind the first chunk addresses are
 * reserved, from which the region is lengthened. What is free in it goes back page by page (purge.c), and from its end.
 * Chunks elsewhere are whole mebibytes at whole mebibytes: then the heap's table from addresses to regions is right at the first look. They
 * stay small enough that an empty one is found, and goes back, before all of the program's memory is free.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "preload.h"

#define CHUNK_UNIT ((size_t)1 << 20)
#define CHUNK_MAX ((size_t)16 << 20) /* unless one object needs more, or this share of what is mapped is more: */
#define CHUNK_SHARE 64               /* what grows or trims the heap looks at every chunk */

/*
 * The first chunk, and what is reserved behind it. Nearly all of the chunk describes what is reserved; what is left is as much as small programs
 * need. More would come into use before the caches are drained, as they are before the heap grows; and all of it is resident in a program
 * that locks what it has in memory (mlockall). What is reserved costs no memory, but counts as address space: for limits that are set while
 * the program runs, and for mlockall without the privilege.
 */
#define RESERVED_BYTES ((size_t)1 << 30)
#define FIRST_SHARE 48                /* the first chunk is this share of what is reserved with it, */
#define FIRST_FREE ((size_t)64 << 10) /* and so much to use, */
#define LIMIT_SHARE 16 /* which is no more than this share of what the process may have (ulimit -v, -d) */
#define OPENED_SHARE 4 /* what is reserved can be used, for growth to come, a quarter of what is mapped at a time */

/*
 * Where the kernel makes pages huge unasked, the first touch would cost a whole one. Not at the front: there are the descriptors, of which most
 * programs touch little, and what a small program has.
 */
#define DESCRIPTORS_SHARE 40 /* they are less than this share of what is reserved */
#define FRONT_BYTES ((size_t)4 << 20)

/* Chunks of one unit that were put back and wait for the next get: a program whose heap oscillates would fault their pages in each time. */
#define KEPT_CHUNKS 2

/*
 * The addresses that are reserved behind the first chunk. The heap has the first ones; `held` bytes are those and what it is just giving back.
 * From `fresh` on they cannot be used yet.
 */
static struct {
	uintptr_t begin, end, fresh;
	size_t held;
} range;

/* So often a get looks whether what another thread is giving back, of the same addresses, is given back. */
#define WAIT_TRIES 1000

static uintptr_t kept[KEPT_CHUNKS]; /* 0: none */
static size_t mapped_bytes;
static bool has_begun; /* there was a chunk already */

size_t preload_mapped_bytes(void)
{
	return __atomic_load_n(&mapped_bytes, __ATOMIC_RELAXED);
}

/* ---- mappings ---------------------------------------------------------------------------------------------------- */

/* What is so large is left to the kernel to refuse: without MAP_NORESERVE it does, if it is more than it has. */
#define VAST ((size_t)1 << 30)

static void *map(size_t size_bytes, int protection)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | (size_bytes < VAST || !protection ? MAP_NORESERVE : 0);
	void *memory = mmap(NULL, size_bytes, protection, flags, -1, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

#define READ_WRITE (PROT_READ | PROT_WRITE)

/* At a multiple of CHUNK_UNIT. The kernel places each mapping beside the last one, so it mostly is at one already. */
static void *map_aligned(size_t size_bytes, int protection)
{
	char *memory = map(size_bytes, protection);
	size_t excess;

	if (!memory || (uintptr_t)memory % CHUNK_UNIT == 0)
		return memory;
	munmap(memory, size_bytes);
	memory = map(size_bytes + CHUNK_UNIT, protection);
	if (!memory)
		return NULL;
	excess = -(uintptr_t)memory % CHUNK_UNIT;
	if (excess)
		munmap(memory, excess);
	munmap(memory + excess + size_bytes, CHUNK_UNIT - excess);
	return memory + excess;
}

static void unmap(uintptr_t base, size_t size_bytes)
{
	/* It can fail when the process has as many mappings as it may: then the pages at least are given back. */
	if (munmap((void *)base, size_bytes) != 0)
		madvise((void *)base, size_bytes, MADV_DONTNEED);
	__atomic_fetch_sub(&mapped_bytes, size_bytes, __ATOMIC_RELAXED);
}

/* ---- chunks that are kept ----------------------------------------------------------------------------------------- */

static uintptr_t take_kept(void)
{
	for (unsigned i = 0; i < KEPT_CHUNKS; i++) {
		uintptr_t base = __atomic_load_n(&kept[i], __ATOMIC_RELAXED);

		if (base && __atomic_compare_exchange_n(&kept[i], &base, 0, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
			return base;
	}
	return 0;
}

static bool keep(uintptr_t base)
{
	for (unsigned i = 0; i < KEPT_CHUNKS; i++) {
		uintptr_t none = 0;

		if (__atomic_compare_exchange_n(&kept[i], &none, base, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
			return true;
	}
	return false;
}

bool preload_unkeep(void)
{
	int saved = errno;
	bool any = false;
	uintptr_t base;

	for (; (base = take_kept()) != 0; any = true)
		unmap(base, CHUNK_UNIT);
	errno = saved;
	return any;
}

/* ---- how large a chunk is ------------------------------------------------------------------------------------------ */

static size_t lesser(size_t a, size_t b)
{
	return a < b ? a : b;
}

static size_t greater(size_t a, size_t b)
{
	return a > b ? a : b;
}

static size_t limit_of(int resource)
{
	struct rlimit limit;

	return getrlimit(resource, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY ? limit.rlim_cur : SIZE_MAX;
}

/* Does the system count what is mapped as if it were all used (vm.overcommit_memory = 2)? Asked without what others may have replaced. */
static bool is_accounted(void)
{
	int file = (int)syscall(SYS_openat, AT_FDCWD, "/proc/sys/vm/overcommit_memory", O_RDONLY | O_CLOEXEC);
	char mode = 0;

	if (file < 0)
		return false;
	if (syscall(SYS_read, file, &mode, (size_t)1) != 1)
		mode = 0;
	syscall(SYS_close, file);
	return mode == '2';
}

static size_t whole_units(size_t size_bytes)
{
	return (size_bytes + CHUNK_UNIT - 1) & ~(CHUNK_UNIT - 1);
}

static size_t whole_pages(size_t size_bytes)
{
	return (size_bytes + KMALLOC_PAGE_SIZE - 1) & ~(size_t)(KMALLOC_PAGE_SIZE - 1);
}

static size_t chunk_bytes(size_t min_bytes, size_t want_bytes)
{
	size_t most = greater(preload_mapped_bytes() / CHUNK_SHARE, CHUNK_MAX);

	return whole_units(greater(lesser(want_bytes, most), min_bytes));
}

/* ---- the source ------------------------------------------------------------------------------------------------------ */

static void note_chunk(uintptr_t base, size_t size_bytes)
{
	__atomic_fetch_add(&mapped_bytes, size_bytes, __ATOMIC_RELAXED);
	preload_note_mapped(size_bytes);
	preload_ahead_chunk(base, size_bytes);
}

/*
 * The first chunk, with what is reserved behind it, unless address space costs something. In the hardened build free pages hold poison, and only
 * whole chunks go back. There is one thread only.
 */
static bool get_first(size_t min_bytes, struct kpage_chunk *chunk)
{
	size_t limit = lesser(limit_of(RLIMIT_AS), limit_of(RLIMIT_DATA));
	size_t reserved = lesser(RESERVED_BYTES, limit / LIMIT_SHARE) & ~(CHUNK_UNIT - 1);
	size_t size_bytes = whole_pages(reserved / FIRST_SHARE) + FIRST_FREE;
	char *memory;

	if (IS_HARDENED || is_accounted() || size_bytes < min_bytes)
		return false;
	memory = map_aligned(reserved, PROT_NONE);
	if (!memory)
		return false;
	if (mprotect(memory, size_bytes, READ_WRITE) != 0) {
		munmap(memory, reserved);
		return false;
	}
	madvise(memory, lesser(FRONT_BYTES + reserved / DESCRIPTORS_SHARE, reserved), MADV_NOHUGEPAGE);
	chunk->base = (uintptr_t)memory;
	chunk->n_pages = size_bytes / KMALLOC_PAGE_SIZE;
	chunk->n_behind = (uint32_t)((reserved - size_bytes) / KMALLOC_PAGE_SIZE);
	range.begin = range.fresh = chunk->base + size_bytes;
	__atomic_store_n(&range.end, chunk->base + reserved, __ATOMIC_RELAXED);
	return true;
}

/* The heap holds what lies in front of this address, and nothing behind it is still being given back; so many bytes more are held now. */
static bool hold(uintptr_t base, size_t size_bytes)
{
	size_t held = base - range.begin;

	for (unsigned tries = WAIT_TRIES; tries; tries--) {
		size_t expected = held;

		if (__atomic_compare_exchange_n(&range.held, &expected, held + size_bytes, false, __ATOMIC_ACQ_REL,
		                                __ATOMIC_RELAXED))
			return true;
		sched_yield();
	}
	return false;
}

static void let_go(size_t size_bytes)
{
	__atomic_fetch_sub(&range.held, size_bytes, __ATOMIC_RELEASE);
}

static uintptr_t range_end(void)
{
	return __atomic_load_n(&range.end, __ATOMIC_RELAXED);
}

static bool is_behind(uintptr_t address)
{
	return address >= range.begin && address < range_end();
}

/* Where the first region ends. The heap asks for this by one thread at a time. */
static bool get_behind(const struct kpage_request *request, struct kpage_chunk *chunk)
{
	uintptr_t base = request->best_address, end;
	size_t min_bytes = request->min_pages * KMALLOC_PAGE_SIZE;
	size_t most = greater(lesser(request->want_pages * KMALLOC_PAGE_SIZE, CHUNK_MAX), min_bytes);
	size_t size_bytes = lesser(most, range_end() - base);

	if (size_bytes < min_bytes || !hold(base, size_bytes))
		return false;
	end = base + size_bytes;
	/* It has just become less. */
	if (end > range_end()) {
		let_go(size_bytes);
		return false;
	}
	if (end > range.fresh) {
		size_t least = end - range.fresh;
		size_t more = greater(lesser(whole_units(preload_mapped_bytes() / OPENED_SHARE), CHUNK_MAX), least);

		more = lesser(more, range_end() - range.fresh);
		/* Near a limit every page counts. */
		if (mprotect((void *)range.fresh, more, READ_WRITE) != 0 &&
		    mprotect((void *)range.fresh, more = least, READ_WRITE) != 0) {
			let_go(size_bytes);
			return false;
		}
		range.fresh += more;
	}
	chunk->base = base;
	chunk->n_pages = size_bytes / KMALLOC_PAGE_SIZE;
	return true;
}

/* Zero from now on, and not in memory. Locked memory (mlockall) is refused, but can be replaced. */
static bool is_zeroed(uintptr_t base, size_t size_bytes)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;

	return madvise((void *)base, size_bytes, MADV_DONTNEED) == 0 ||
	       mmap((void *)base, size_bytes, READ_WRITE, flags, -1, 0) != MAP_FAILED;
}

/* What cannot be given back stays held, so that nobody gets it. */
static void put_behind(uintptr_t base, size_t size_bytes)
{
	__atomic_fetch_sub(&mapped_bytes, size_bytes, __ATOMIC_RELAXED);
	if (is_zeroed(base, size_bytes))
		let_go(size_bytes);
}

/* Anywhere. */
static bool get_apart(const struct kpage_request *request, struct kpage_chunk *chunk)
{
	size_t min_bytes = request->min_pages * KMALLOC_PAGE_SIZE;
	size_t size_bytes = chunk_bytes(min_bytes, request->want_pages * KMALLOC_PAGE_SIZE);
	void *memory = map_aligned(size_bytes, READ_WRITE);

	if (!memory) {
		/* Near a limit every page counts. */
		size_bytes = min_bytes;
		memory = map(size_bytes, READ_WRITE);
	}
	chunk->base = (uintptr_t)memory;
	chunk->n_pages = size_bytes / KMALLOC_PAGE_SIZE;
	return memory != NULL;
}

static bool get_fresh(const struct kpage_request *request, struct kpage_chunk *chunk)
{
	bool is_first = !__atomic_load_n(&has_begun, __ATOMIC_RELAXED);

	__atomic_store_n(&has_begun, true, __ATOMIC_RELAXED);
	if (is_first && get_first(request->min_pages * KMALLOC_PAGE_SIZE, chunk))
		return true;
	if (request->best_address)
		return is_behind(request->best_address) && get_behind(request, chunk);
	return get_apart(request, chunk);
}

static bool get(void *ctx, const struct kpage_request *request, struct kpage_chunk *chunk)
{
	int saved = errno;
	bool is_got;

	(void)ctx;
	/* An address limit is never asked for: malloc has none. */
	if (request->max_address != UINTPTR_MAX || request->min_pages > PTRDIFF_MAX / KMALLOC_PAGE_SIZE)
		return false;
	if (!request->best_address && request->want_pages <= CHUNK_UNIT / KMALLOC_PAGE_SIZE &&
	    (chunk->base = take_kept()) != 0) {
		chunk->n_pages = CHUNK_UNIT / KMALLOC_PAGE_SIZE;
		return true;
	}
	is_got = get_fresh(request, chunk);
	if (is_got) {
		chunk->is_zero = true;
		note_chunk(chunk->base, chunk->n_pages * KMALLOC_PAGE_SIZE);
	}
	errno = saved;
	return is_got;
}

static void put(void *ctx, const struct kpage_chunk *chunk)
{
	size_t size_bytes = chunk->n_pages * KMALLOC_PAGE_SIZE;
	int saved = errno;

	(void)ctx;
	preload_note_unmapped(size_bytes);
	preload_ahead_forget(chunk->base);
	if (is_behind(chunk->base)) {
		put_behind(chunk->base, size_bytes);
	} else if (size_bytes != CHUNK_UNIT || chunk->base % CHUNK_UNIT || !keep(chunk->base)) {
		unmap(chunk->base, size_bytes);
	}
	errno = saved;
}

struct kpage_source preload_pages(void)
{
	return (struct kpage_source){ .get = get, .put = put };
}

static uintptr_t first_region_end(struct kheap *heap)
{
	struct kpage_chunk first;

	return kheap_region(heap, 0, &first) ? first.base + first.n_pages * KMALLOC_PAGE_SIZE : range.begin;
}

/*
 * What others were getting behind the first region, or giving back, is not the heap's. It may have been touched, and what comes from here is
 * promised to be zero. What they had elsewhere is lost, and at most a chunk each.
 */
void preload_pages_after_fork(struct kheap *heap)
{
	int saved = errno;
	uintptr_t end;

	if (!range.end)
		return;
	end = first_region_end(heap);
	if (range.held == end - range.begin)
		return;
	preload_ahead_forget(end);
	if (range.fresh <= end || is_zeroed(end, range.fresh - end))
		range.held = end - range.begin;
	errno = saved;
}

/* All of the rest is held. It is none of ours before anybody else may have it: a child of the process might take it for ours. */
static void range_cut(uintptr_t end)
{
	uintptr_t old_end = range_end(), old_fresh = range.fresh;

	range.fresh = lesser(old_fresh, end);
	__atomic_store_n(&range.end, end, __ATOMIC_SEQ_CST);
	if (munmap((void *)end, old_end - end) != 0) {
		range.fresh = old_fresh;
		__atomic_store_n(&range.end, old_end, __ATOMIC_RELAXED);
	}
}

/*
 * What is reserved counts as address space, and threads, libraries and whatever else the process maps need theirs. So when it may have less than
 * what a reservation is made for, all goes that the heap does not have. Not while a thread is inside the source for this range: nobody gets or puts
 * any if what is held is the heap's, and nobody can begin to once all is held.
 */
void preload_pages_limit(struct kheap *heap, size_t limit_bytes)
{
	int saved = errno;

	for (unsigned tries = WAIT_TRIES; tries && range_end() && limit_bytes / LIMIT_SHARE < RESERVED_BYTES; tries--) {
		size_t all = range_end() - range.begin;
		uintptr_t end = first_region_end(heap);
		size_t held = end - range.begin;

		if (!__atomic_compare_exchange_n(&range.held, &held, all, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
			sched_yield();
			continue;
		}
		/* Some may have been got and given back since. */
		bool is_still = first_region_end(heap) == end;

		if (is_still)
			range_cut(end);
		let_go(all - held);
		if (is_still)
			break;
	}
	errno = saved;
}

/*
 * The system gives no more: what is kept for the next time, where it is of no use for this request, makes room under a limit. Not for what is
 * hopeless.
 */
bool preload_give_back(void *ctx, size_t size_bytes)
{
	bool any;

	(void)ctx;
	if (size_bytes > lesser(lesser(limit_of(RLIMIT_AS), limit_of(RLIMIT_DATA)), VAST))
		return false;
	any = kheap_trim(preload_heap()) > 0;
	/* Of what is trimmed some is kept. */
	return preload_unkeep() || any;
}

bool preload_discard(void *start, size_t size_bytes)
{
	uintptr_t from = ((uintptr_t)start + KMALLOC_PAGE_SIZE - 1) & ~(KMALLOC_PAGE_SIZE - 1);
	uintptr_t to = ((uintptr_t)start + size_bytes) & ~(KMALLOC_PAGE_SIZE - 1);
	int saved = errno;
	bool done;

	/* Locked memory (mlockall) is refused. */
	done = from >= to || madvise((void *)from, to - from, MADV_DONTNEED) == 0;
	errno = saved;
	return done;
}

/* Do these pages lie in one mapping? Of several the kernel says EFAULT when they are to grow where they are; if they do, they shrink again. */
static bool is_one_mapping(char *start, size_t size_bytes)
{
	if (mremap(start, size_bytes, size_bytes + KMALLOC_PAGE_SIZE, 0) == MAP_FAILED)
		return errno != EFAULT;
	munmap(start + size_bytes, KMALLOC_PAGE_SIZE);
	return true;
}

/* The first of so many bytes that lie in one mapping. */
static size_t in_one_mapping(char *start, size_t size_bytes)
{
	size_t least = 1, most = size_bytes / KMALLOC_PAGE_SIZE;

	if (is_one_mapping(start, size_bytes))
		return size_bytes;
	while (most - least > 1) {
		size_t middle = least + (most - least) / 2;

		if (is_one_mapping(start, middle * KMALLOC_PAGE_SIZE))
			least = middle;
		else
			most = middle;
	}
	return least * KMALLOC_PAGE_SIZE;
}

size_t preload_move_pages(void *to, void *from, size_t size_bytes)
{
	char *source = from, *target = to;
	int saved = errno;
	size_t moved = 0;

	/*
	 * Mapping by mapping: kernels before 6.17 refuse several at once, and have unmapped the target by then. Those before 5.7 refuse at
	 * once, and so does one with as many mappings as it allows.
	 */
	while (moved < size_bytes) {
		size_t n = in_one_mapping(source + moved, size_bytes - moved);

		if (mremap(source + moved, n, n, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, target + moved) !=
		    target + moved)
			break;
		moved += n;
	}
	errno = saved;
	return moved;
}
