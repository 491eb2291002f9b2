/* SPDX-License-Identifier: MIT */
/*
 * malloc and its relatives on one heap: what C and POSIX ask beyond what the heap promises (errno, what is a legal alignment), and what a
 * process wants beyond that: pages that were never used are not cleared, and large objects go back. Misuse never comes back here: it aborts.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include <kmalloc_port.h>

#include "preload.h"

/* What is no larger is always made zero by hand; what is as large as that never is. */
#define ZERO_BY_HAND ((size_t)128 << 10)
#define ZERO_BY_KERNEL ((size_t)32 << 20)
/* Freed objects of this size give their pages back, once more than a share of such pages is idle. */
#define LARGE ((size_t)64 << 10)
#define IDLE_MIN ((size_t)8 << 20)
/* Objects from this size on are moved by the kernel, which splits its mappings: it has not many. */
#define MOVED_BY_KERNEL ((size_t)4 << 20)
/* A large object that had to move to grow gets this share more, and one that shrinks by less stays as it is. */
#define GROWTH_SHARE 8
#define IDLE_SHARE 16
/* Of the frees of small objects that no cache took, one in so many looks at what is idle. */
#define LOOK_EACH 16

static struct kheap *the_heap;
/* The same for a free that some cache takes; NULL: each is to go where it is looked whether there is more to give back. */
static struct kheap *quick_heap;
static struct kport_lock start_lock;
/* Bytes of freed large objects whose pages were not given back: a guess, because what takes them again need not be large. */
static size_t idle_bytes;
/* Was there ever a large object? */
static bool has_large;

struct kheap *preload_heap(void)
{
	return __atomic_load_n(&the_heap, __ATOMIC_ACQUIRE);
}

void preload_watch_frees(bool watches)
{
	__atomic_store_n(&quick_heap, watches ? NULL : the_heap, __ATOMIC_RELEASE);
}

/* A thread ends: what its cache holds is for the next one, or goes back. */
static void thread_leaves(void)
{
	kheap_leave(the_heap);
	preload_look(the_heap);
}

__attribute__((noinline, cold)) static struct kheap *heap_start(void)
{
	kport_lock_state state = kport_lock(&start_lock);
	struct kheap *heap = the_heap;

	if (!heap) {
		struct kheap_config config = { .source = preload_pages(),
			                       .on_low_memory = preload_give_back,
			                       .on_error = preload_on_error };
		int saved = errno;

		/* Early after boot there may be no randomness yet; then the address alone is the secret. */
		if (getrandom(&config.secret, sizeof(config.secret), GRND_NONBLOCK) != sizeof(config.secret))
			config.secret = 0;
		errno = saved;
		heap = kheap_create(NULL, 0, &config);
		if (heap) {
			preload_ahead_begin();
			preload_fork_begin(heap);
			kport_cpu_leaving = thread_leaves;
		}
		__atomic_store_n(&the_heap, heap, __ATOMIC_RELEASE);
		__atomic_store_n(&quick_heap, heap, __ATOMIC_RELEASE);
	}
	kport_unlock(&start_lock, state);
	return heap;
}

static inline struct kheap *heap_get(void)
{
	struct kheap *heap = __atomic_load_n(&the_heap, __ATOMIC_ACQUIRE);

	return LIKELY(heap != NULL) ? heap : heap_start();
}

/* ---- large objects ---------------------------------------------------------------------------------------------- */

/* A large object came into use: probably on pages that were idle. */
static void large_taken(size_t size_bytes)
{
	size_t idle = __atomic_load_n(&idle_bytes, __ATOMIC_RELAXED);

	if (!__atomic_load_n(&has_large, __ATOMIC_RELAXED))
		__atomic_store_n(&has_large, true, __ATOMIC_RELAXED);
	if (idle)
		__atomic_store_n(&idle_bytes, idle > size_bytes ? idle - size_bytes : 0, __ATOMIC_RELAXED);
	preload_note_moved(size_bytes);
	preload_note_taken();
}

/*
 * A page-aligned object is about to be freed. Its pages go back to the system if much is idle already: a program that frees and takes the
 * same buffer again and again keeps it, one that frees most of what it had gets smaller at once.
 */
__attribute__((noinline)) static void large_release(struct kheap *heap, void *object)
{
	/* Reports what is no object. */
	size_t size_bytes = kheap_usable_size(heap, object);
	size_t limit = preload_mapped_bytes() / IDLE_SHARE;

	if (size_bytes < LARGE)
		return;
	if (limit < IDLE_MIN)
		limit = IDLE_MIN;
	preload_note_moved(size_bytes);
	if (__atomic_load_n(&idle_bytes, __ATOMIC_RELAXED) + size_bytes > limit &&
	    preload_may_release(heap, size_bytes)) {
		if (preload_discard(object, size_bytes))
			kheap_note_given_up(heap, object);
	} else {
		__atomic_fetch_add(&idle_bytes, size_bytes, __ATOMIC_RELAXED);
	}
}

/* ---- for the operators too -------------------------------------------------------------------------------------- */

/* What no cache has: among them the first object of all, and large ones. */
__attribute__((noinline)) static void *alloc_rare(size_t size_bytes)
{
	struct kheap *heap = heap_get();

	if (!heap)
		return NULL;
	if (size_bytes >= LARGE)
		large_taken(size_bytes);
	void *object = kheap_alloc_aligned(heap, size_bytes, KMALLOC_ALIGNMENT, 0);

	if (object)
		preload_ahead(object, size_bytes + 1);
	return object;
}

inline void *preload_alloc(size_t size_bytes)
{
	struct kheap *heap = __atomic_load_n(&the_heap, __ATOMIC_ACQUIRE);
	void *object = LIKELY(heap != NULL) ? kheap_alloc_cached(heap, size_bytes) : NULL;

	return LIKELY(object != NULL) ? object : alloc_rare(size_bytes);
}

void *preload_alloc_aligned(size_t size_bytes, size_t alignment)
{
	struct kheap *heap = heap_get();

	if (UNLIKELY(size_bytes >= LARGE))
		large_taken(size_bytes);
	return heap ? kheap_alloc_aligned(heap, size_bytes, alignment, 0) : NULL;
}

/* And see whether memory is idle. */
static __attribute__((noinline)) void free_and_look(struct kheap *heap, void *object, bool is_page)
{
	/* Large objects are whole pages. The hardened build writes to all that is freed, so there it would be in vain. */
	if (!IS_HARDENED && is_page && __atomic_load_n(&has_large, __ATOMIC_RELAXED))
		large_release(heap, object);
	kheap_free(heap, object);
	preload_look(heap);
}

/*
 * What no cache takes: among it large objects, NULL, and what is freed before the first object: that is misuse, and the heap must be there to
 * say so.
 */
static __attribute__((noinline)) void free_rare(void *object)
{
	static _Thread_local unsigned n_calls;
	struct kheap *heap = object ? heap_get() : NULL;
	bool is_page = (uintptr_t)object % KMALLOC_PAGE_SIZE == 0;

	if (!heap)
		return;
	/* What it looks at, other threads change. */
	if (is_page || n_calls++ % LOOK_EACH == 0)
		free_and_look(heap, object, is_page);
	else
		kheap_free(heap, object);
}

inline void preload_free(void *object)
{
	struct kheap *heap = __atomic_load_n(&quick_heap, __ATOMIC_ACQUIRE);

	if (UNLIKELY(!heap) || UNLIKELY(!kheap_free_cached(heap, object)))
		free_rare(object);
}

/* A large object may be larger than it was asked for, since it grew or shrank, so its size is not looked at. */
void preload_free_aligned_sized(void *object, size_t alignment, size_t size_bytes)
{
	struct kheap *heap = heap_get();

	if (!IS_HARDENED && size_bytes >= LARGE)
		preload_free(object);
	else if (heap)
		kheap_free_aligned_sized(heap, object, alignment, size_bytes);
}

void preload_free_sized(void *object, size_t size_bytes)
{
	preload_free_aligned_sized(object, KMALLOC_ALIGNMENT, size_bytes);
}

/* By hand, which costs less than new pages; of very many the kernel gives new ones, and may do so in huge pages. */
static void zero_large(char *object, size_t size_bytes)
{
	/* What lies before the first and behind the last whole page. */
	size_t front = -(uintptr_t)object % KMALLOC_PAGE_SIZE;
	size_t back = ((uintptr_t)object + size_bytes) % KMALLOC_PAGE_SIZE;

	if (size_bytes < ZERO_BY_KERNEL || !preload_discard(object, size_bytes)) {
		memset(object, 0, size_bytes);
	} else {
		memset(object, 0, front);
		memset(object + size_bytes - back, 0, back);
	}
}

/* What was never in use is zero, and stays out of memory until it is. */
static void *alloc_large_zeroed(size_t size_bytes)
{
	struct kheap *heap = heap_get();
	size_t n_used;
	void *object;

	if (!heap)
		return NULL;
	large_taken(size_bytes);
	object = kheap_alloc_told(heap, size_bytes, KMALLOC_ALIGNMENT, &n_used);
	if (!object)
		return NULL;
	preload_ahead(object, size_bytes);
	zero_large(object, n_used < size_bytes ? n_used : size_bytes);
	return object;
}

static void *alloc_zeroed(size_t size_bytes)
{
	void *object;

	if (size_bytes > ZERO_BY_HAND)
		return alloc_large_zeroed(size_bytes);
	object = preload_alloc(size_bytes);
	return object ? memset(object, 0, size_bytes) : NULL;
}

/* ---- C and POSIX ------------------------------------------------------------------------------------------------- */

__attribute__((noinline, cold)) static void *no_memory(void)
{
	errno = ENOMEM;
	return NULL;
}

/* NULL is want of memory, whatever was asked for. */
static inline void *or_enomem(void *object)
{
	return LIKELY(object != NULL) ? object : no_memory();
}

static bool is_power_of_two(size_t number)
{
	return number && (number & (number - 1)) == 0;
}

static __attribute__((noinline)) void *malloc_rare(size_t size_bytes)
{
	return or_enomem(alloc_rare(size_bytes));
}

/* As preload_alloc, in two parts, the fast one with all that it calls inside. Where in a cache line it begins is a tenth of its time. */
__attribute__((flatten, aligned(64))) EXPORT void *malloc(size_t size_bytes)
{
	struct kheap *heap = __atomic_load_n(&the_heap, __ATOMIC_ACQUIRE);
	void *object = LIKELY(heap != NULL) ? kheap_alloc_cached(heap, size_bytes) : NULL;

	return LIKELY(object != NULL) ? object : malloc_rare(size_bytes);
}

/* Likewise. */
__attribute__((flatten, aligned(64))) EXPORT void free(void *object)
{
	preload_free(object);
}

EXPORT void *calloc(size_t n, size_t size_bytes)
{
	size_t total;

	if (UNLIKELY(__builtin_mul_overflow(n, size_bytes, &total)))
		total = SIZE_MAX;
	return or_enomem(alloc_zeroed(total));
}

/* Does an object of `old` bytes stay as it is? */
static bool is_slack(size_t old, size_t size_bytes)
{
	return !IS_HARDENED && size_bytes <= old && old - size_bytes < old / GROWTH_SHARE;
}

/* For a large object that moves: with room to grow, which costs no memory before it is used. */
static void *alloc_to_grow(size_t old, size_t size_bytes)
{
	size_t more = size_bytes / GROWTH_SHARE;
	void *object = NULL;

	if (!IS_HARDENED && size_bytes > old && size_bytes < SIZE_MAX - more)
		object = preload_alloc(size_bytes + more);
	return object ? object : preload_alloc(size_bytes);
}

/*
 * A large object becomes another large one. Growing little by little, as programs do with what they read, must not copy all of it each
 * time. What it leaves goes back to the system as if it had been freed.
 */
static void *large_resize(struct kheap *heap, void *object, size_t size_bytes)
{
	size_t old = kheap_usable_size(heap, object), kept = old < size_bytes ? old : size_bytes;
	size_t n_moved = 0;
	void *moved;

	if (old >= LARGE && is_slack(old, size_bytes))
		return object;
	if (kheap_try_resize(heap, object, size_bytes)) {
		if (size_bytes > old)
			large_taken(size_bytes - old);
		return object;
	}
	moved = alloc_to_grow(old, size_bytes);
	if (!moved)
		return NULL;
	if (!IS_HARDENED && kept >= MOVED_BY_KERNEL && kept % KMALLOC_PAGE_SIZE == 0)
		n_moved = preload_move_pages(moved, object, kept);
	memcpy((char *)moved + n_moved, (char *)object + n_moved, kept - n_moved);
	if (n_moved != kept) {
		preload_free(object);
		return moved;
	}
	kheap_free(heap, object);
	preload_look(heap);
	return moved;
}

EXPORT void *realloc(void *object, size_t size_bytes)
{
	struct kheap *heap = heap_get();

	/* As the C library does: programs rely on it. */
	if (object && !size_bytes) {
		preload_free(object);
		return NULL;
	}
	if (UNLIKELY(!heap))
		return or_enomem(NULL);
	if (UNLIKELY(size_bytes >= LARGE) && object && (uintptr_t)object % KMALLOC_PAGE_SIZE == 0)
		return or_enomem(large_resize(heap, object, size_bytes));
	if (UNLIKELY(size_bytes >= LARGE))
		large_taken(size_bytes);
	return or_enomem(kheap_realloc_aligned(heap, object, size_bytes, KMALLOC_ALIGNMENT));
}

EXPORT void *reallocarray(void *object, size_t n, size_t size_bytes)
{
	size_t total;

	if (__builtin_mul_overflow(n, size_bytes, &total))
		return no_memory();
	return realloc(object, total);
}

EXPORT void free_sized(void *object, size_t size_bytes)
{
	preload_free_sized(object, size_bytes);
}

EXPORT void free_aligned_sized(void *object, size_t alignment, size_t size_bytes)
{
	preload_free_aligned_sized(object, alignment, size_bytes);
}

/* An error number, and errno as it was. */
EXPORT int posix_memalign(void **object, size_t alignment, size_t size_bytes)
{
	void *made;

	if (!is_power_of_two(alignment) || alignment % sizeof(void *))
		return EINVAL;
	made = preload_alloc_aligned(size_bytes, alignment);
	if (!made)
		return ENOMEM;
	*object = made;
	return 0;
}

EXPORT void *aligned_alloc(size_t alignment, size_t size_bytes)
{
	if (!is_power_of_two(alignment)) {
		errno = EINVAL;
		return NULL;
	}
	return or_enomem(preload_alloc_aligned(size_bytes, alignment));
}

/* Other alignments are rounded up, as the C library does. */
EXPORT void *memalign(size_t alignment, size_t size_bytes)
{
	size_t rounded = KMALLOC_ALIGNMENT;

	if (alignment > SIZE_MAX / 2 + 1) {
		errno = EINVAL;
		return NULL;
	}
	while (rounded < alignment)
		rounded *= 2;
	return or_enomem(preload_alloc_aligned(size_bytes, rounded));
}

EXPORT void *valloc(size_t size_bytes)
{
	return or_enomem(preload_alloc_aligned(size_bytes, KMALLOC_PAGE_SIZE));
}

EXPORT void *pvalloc(size_t size_bytes)
{
	size_t whole = size_bytes ? size_bytes : 1;

	if (__builtin_add_overflow(whole, KMALLOC_PAGE_SIZE - 1, &whole))
		return no_memory();
	return valloc(whole & ~(KMALLOC_PAGE_SIZE - 1));
}

/* ---- what the C library adds --------------------------------------------------------------------------------------- */

EXPORT size_t malloc_usable_size(void *object)
{
	struct kheap *heap = heap_get();

	return heap ? kheap_usable_size(heap, object) : 0;
}

/* 1: memory was given back. What may stay for the next time (`pad`) is the heap's own choice. */
EXPORT int malloc_trim(size_t pad)
{
	struct kheap *heap = heap_get();

	(void)pad;
	if (!heap)
		return 0;
	__atomic_store_n(&idle_bytes, 0, __ATOMIC_RELAXED);
	return preload_purge(heap);
}

/* The C library's other names for them: a program that uses both kinds must not meet two heaps. */
#define ALSO_FOR(name) __attribute__((alias(#name)))
EXPORT void *__libc_malloc(size_t size_bytes) ALSO_FOR(malloc);
EXPORT void *__libc_calloc(size_t n, size_t size_bytes) ALSO_FOR(calloc);
EXPORT void *__libc_realloc(void *object, size_t size_bytes) ALSO_FOR(realloc);
EXPORT void *__libc_memalign(size_t alignment, size_t size_bytes) ALSO_FOR(memalign);
EXPORT void *__libc_valloc(size_t size_bytes) ALSO_FOR(valloc);
EXPORT void *__libc_pvalloc(size_t size_bytes) ALSO_FOR(pvalloc);
EXPORT void __libc_free(void *object) ALSO_FOR(free);
EXPORT void cfree(void *object) ALSO_FOR(free);
