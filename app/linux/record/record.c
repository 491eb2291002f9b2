/* SPDX-License-Identifier: MIT */
/*
 * The recorder: put in front of the C library's malloc (or of another that is preloaded after it) with LD_PRELOAD, it passes
 * every call on and writes down what happened, in the format of suite/trace.h.
 *
 *     LD_PRELOAD=build/linux/libkmalloc-record.so KMALLOC_TRACE=FOLDER program...
 *
 * Every thread is recorded, into one file, in an order that could have been: a free is written before it is done, an
 * allocation after. A forked child is not recorded any further; a program that it then starts has a file of its own. The
 * counts at the file's end are written when the program exits, also through _exit; one that is killed, or that replaces
 * itself by another, leaves a trace without an end, which replay refuses.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdalign.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../suite/trace.h"
#include "record.h"

#define EXPORT __attribute__((visibility("default")))
#define MALLOC_ALIGNMENT 16
/* What dlsym and the loader allocate before the next malloc is known. */
#define BOOTSTRAP_BYTES ((size_t)64 << 10)

/* The malloc behind us. */
static struct {
	void *(*malloc)(size_t);
	void *(*calloc)(size_t, size_t);
	void *(*realloc)(void *, size_t);
	void (*free)(void *);
	int (*posix_memalign)(void **, size_t, size_t);
	void *(*aligned_alloc)(size_t, size_t);
	void *(*memalign)(size_t, size_t);
	void *(*valloc)(size_t);
	void *(*pvalloc)(size_t);
	void (*exit_now)(int);
} next;

enum state { STATE_NEW, STATE_STARTING, STATE_PASSING, STATE_RECORDING, STATE_ENDED };
static enum state state;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct trace_counts counts = { .n_threads = 1 };
static uint64_t live_bytes;
static uint64_t last_thread;
static pid_t owner;

/* Not allocated at the first use, as thread-local data of a library otherwise may be: that would call malloc. */
#define THREAD_LOCAL static _Thread_local __attribute__((tls_model("initial-exec")))
THREAD_LOCAL uint64_t this_thread; /* 1.., 0: not numbered yet */
/* This thread is writing down something; a signal handler's malloc must not wait for it. */
THREAD_LOCAL bool is_inside;

/* ------------------------------------------------------------------------------------------------------------
 * Before the next malloc is known
 * --------------------------------------------------------------------------------------------------------- */

static alignas(MALLOC_ALIGNMENT) char bootstrap[BOOTSTRAP_BYTES];
static size_t n_bootstrap;

static bool is_bootstrap(const void *object)
{
	return (uintptr_t)object - (uintptr_t)bootstrap < BOOTSTRAP_BYTES;
}

/* Zeroed, never freed. */
static void *bootstrap_alloc(size_t size)
{
	size_t rounded = (size + MALLOC_ALIGNMENT - 1) & ~(size_t)(MALLOC_ALIGNMENT - 1);

	if (rounded < size || rounded > BOOTSTRAP_BYTES - n_bootstrap)
		return NULL;
	n_bootstrap += rounded;
	return bootstrap + n_bootstrap - rounded;
}

static void *find(const char *name)
{
	return dlsym(RTLD_NEXT, name);
}

static void before_fork(void)
{
	pthread_mutex_lock(&lock);
}

static void after_fork(void)
{
	pthread_mutex_unlock(&lock);
}

static void after_fork_in_child(void)
{
	state = STATE_ENDED;
	pthread_mutex_unlock(&lock);
}

static void start(void)
{
	state = STATE_STARTING;
	next.malloc = (void *(*)(size_t))find("malloc");
	next.calloc = (void *(*)(size_t, size_t))find("calloc");
	next.realloc = (void *(*)(void *, size_t))find("realloc");
	next.free = (void (*)(void *))find("free");
	next.posix_memalign = (int (*)(void **, size_t, size_t))find("posix_memalign");
	next.aligned_alloc = (void *(*)(size_t, size_t))find("aligned_alloc");
	next.memalign = (void *(*)(size_t, size_t))find("memalign");
	next.valloc = (void *(*)(size_t))find("valloc");
	next.pvalloc = (void *(*)(size_t))find("pvalloc");
	if (next.malloc == NULL || next.calloc == NULL || next.realloc == NULL || next.free == NULL) {
		writer_complain("there is no malloc behind this library, so it cannot work in ",
		                program_invocation_name);
		abort();
	}
	state = STATE_PASSING;
}

/* True: the next malloc may be called. */
static inline bool is_ready(void)
{
	if (__builtin_expect(state == STATE_NEW, 0))
		start();
	return state != STATE_STARTING;
}

/* ------------------------------------------------------------------------------------------------------------
 * Events. The lock is held.
 * --------------------------------------------------------------------------------------------------------- */

static void put_event(enum trace_kind kind, uint64_t operand)
{
	uint8_t *room = writer_room(TRACE_VARINT_MAX);

	if (room == NULL) {
		state = STATE_ENDED;
		return;
	}
	writer_advance(trace_put_varint(room, operand << TRACE_KIND_BITS | kind));
	counts.n_events += kind != TRACE_END;
}

static void put_number(uint64_t number)
{
	uint8_t *room = writer_room(TRACE_VARINT_MAX);

	if (room != NULL)
		writer_advance(trace_put_varint(room, number));
}

static void put_thread(void)
{
	if (this_thread == 0)
		this_thread = counts.n_objects == 0 && counts.n_events == 0 ? 1 : ++counts.n_threads;
	if (this_thread - 1 == last_thread)
		return;
	last_thread = this_thread - 1;
	put_event(TRACE_THREAD, last_thread);
}

/* The most memory that was ever asked for at once. */
static void count_live(uint64_t more, uint64_t less)
{
	live_bytes += more - less;
	if (live_bytes > counts.peak_live_bytes)
		counts.peak_live_bytes = live_bytes;
}

static void put_free(struct object *object)
{
	put_thread();
	put_event(TRACE_FREE, object->slot);
	count_live(0, object->size);
	objects_erase(object);
}

static void put_alloc(enum trace_kind kind, void *address, size_t size, unsigned log2_alignment)
{
	struct object *object = objects_find(address);

	/* Its free was not seen: it was done inside the C library, or by a signal handler while we were inside. */
	if (object != NULL)
		put_free(object);
	put_thread();
	if (objects_insert(address, size) == NULL) {
		writer_complain("recording stopped, because there is no memory for its table in ",
		                program_invocation_name);
		state = STATE_ENDED;
		return;
	}
	put_event(kind, size);
	if (kind == TRACE_ALIGNED)
		put_number(log2_alignment);
	counts.n_objects++;
	count_live(size, 0);
}

static bool enter(void)
{
	if (is_inside || state != STATE_RECORDING)
		return false;
	is_inside = true;
	pthread_mutex_lock(&lock);
	if (state == STATE_RECORDING)
		return true;
	pthread_mutex_unlock(&lock);
	is_inside = false;
	return false;
}

static void leave(void)
{
	pthread_mutex_unlock(&lock);
	is_inside = false;
}

static void *note_alloc(enum trace_kind kind, void *object, size_t size, size_t alignment)
{
	if (object == NULL || !enter())
		return object;
	if (alignment > MALLOC_ALIGNMENT)
		put_alloc(TRACE_ALIGNED, object, size, (unsigned)(63 - __builtin_clzll(alignment)));
	else
		put_alloc(kind, object, size, 0);
	leave();
	return object;
}

static void note_free(void *address)
{
	struct object *object;

	if (!enter())
		return;
	if ((object = objects_find(address)) != NULL)
		put_free(object);
	else
		counts.n_left_out++;
	leave();
}

/* The lock is held from before the call, because the old address may be given to another thread during it. */
static void note_realloc(void *old, void *new, size_t size)
{
	struct object *object = objects_find(old);

	if (new == NULL) {
		/* The C library frees what is made 0 bytes long. */
		if (size == 0 && object != NULL)
			put_free(object);
		return;
	}
	if (object == NULL) {
		counts.n_left_out++;
		put_alloc(TRACE_ALLOC, new, size, 0);
		return;
	}
	if (new != old) {
		struct object *stale = objects_find(new);
		if (stale != NULL) {
			put_free(stale);
			object = objects_find(old);
		}
	}
	put_thread();
	put_event(TRACE_REALLOC, object->slot);
	put_number(size);
	count_live(size, object->size);
	if (!objects_move(object, new, size))
		state = STATE_ENDED;
}

static void end(void)
{
	if (state != STATE_RECORDING || getpid() != owner || !enter())
		return;
	counts.n_slots = objects_n_slots();
	put_event(TRACE_END, counts.n_events);
	put_number(counts.n_objects);
	put_number(counts.n_slots);
	put_number(counts.n_threads);
	put_number(counts.peak_live_bytes);
	put_number(counts.n_left_out);
	writer_end();
	state = STATE_ENDED;
	leave();
}

/* ------------------------------------------------------------------------------------------------------------
 * What the program calls
 * --------------------------------------------------------------------------------------------------------- */

EXPORT void *malloc(size_t size)
{
	if (!is_ready())
		return bootstrap_alloc(size);
	return note_alloc(TRACE_ALLOC, next.malloc(size), size, 0);
}

EXPORT void *calloc(size_t n, size_t size)
{
	size_t total;

	if (__builtin_mul_overflow(n, size, &total)) {
		errno = ENOMEM;
		return NULL;
	}
	if (!is_ready())
		return bootstrap_alloc(total);
	return note_alloc(TRACE_CALLOC, next.calloc(n, size), total, 0);
}

EXPORT void free(void *object)
{
	if (object == NULL || is_bootstrap(object) || !is_ready())
		return;
	note_free(object);
	next.free(object);
}

/* An object of the bootstrap area moves out of it; how large it was is not known, so all that follows is copied. */
static void *leave_bootstrap(void *object, size_t size)
{
	size_t left = BOOTSTRAP_BYTES - ((uintptr_t)object - (uintptr_t)bootstrap);
	void *moved = malloc(size);

	if (moved != NULL)
		memcpy(moved, object, size < left ? size : left);
	return moved;
}

EXPORT void *realloc(void *object, size_t size)
{
	void *moved;

	if (object == NULL)
		return malloc(size);
	if (is_bootstrap(object))
		return leave_bootstrap(object, size);
	if (!is_ready())
		return NULL;
	if (!enter())
		return next.realloc(object, size);
	moved = next.realloc(object, size);
	note_realloc(object, moved, size);
	leave();
	return moved;
}

EXPORT void *reallocarray(void *object, size_t n, size_t size)
{
	size_t total;

	if (__builtin_mul_overflow(n, size, &total)) {
		errno = ENOMEM;
		return NULL;
	}
	return realloc(object, total);
}

EXPORT int posix_memalign(void **object, size_t alignment, size_t size)
{
	int error;

	if (!is_ready() || next.posix_memalign == NULL)
		return ENOMEM;
	error = next.posix_memalign(object, alignment, size);
	if (error == 0)
		note_alloc(TRACE_ALLOC, *object, size, alignment);
	return error;
}

EXPORT void *aligned_alloc(size_t alignment, size_t size)
{
	if (!is_ready() || next.aligned_alloc == NULL)
		return NULL;
	return note_alloc(TRACE_ALLOC, next.aligned_alloc(alignment, size), size, alignment);
}

EXPORT void *memalign(size_t alignment, size_t size)
{
	if (!is_ready() || next.memalign == NULL)
		return NULL;
	return note_alloc(TRACE_ALLOC, next.memalign(alignment, size), size, alignment);
}

EXPORT void *valloc(size_t size)
{
	if (!is_ready() || next.valloc == NULL)
		return NULL;
	return note_alloc(TRACE_ALLOC, next.valloc(size), size, (size_t)sysconf(_SC_PAGESIZE));
}

EXPORT void *pvalloc(size_t size)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	if (!is_ready() || next.pvalloc == NULL)
		return NULL;
	return note_alloc(TRACE_ALLOC, next.pvalloc(size), (size + page - 1) & ~(page - 1), page);
}

/* Ends that run no destructors. */
EXPORT _Noreturn void _exit(int status)
{
	end();
	if (next.exit_now == NULL)
		next.exit_now = (void (*)(int))find("_exit");
	next.exit_now(status);
	__builtin_unreachable();
}

EXPORT _Noreturn void _Exit(int status)
{
	_exit(status);
}

/* Not earlier: the C library must know the program's name. What was allocated before is not recorded. */
__attribute__((constructor)) static void begin(void)
{
	if (!is_ready() || state != STATE_PASSING)
		return;
	owner = getpid();
	is_inside = true;
	pthread_atfork(before_fork, after_fork, after_fork_in_child);
	state = writer_begin() ? STATE_RECORDING : STATE_ENDED;
	is_inside = false;
}

/* The last of all, because this library was loaded first. */
__attribute__((destructor)) static void finish(void)
{
	end();
}
