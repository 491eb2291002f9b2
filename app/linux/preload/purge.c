/* SPDX-License-Identifier: MIT */
/*
 * Free pages that stay free go back to the system, also when a few live or cached objects hold their chunks. There is no thread that
 * could do it later, so it is done inside free, now and then: when the heap's shared part was busy for a while, the heap is asked
 * how many pages are free. What was free at two such times running, and was not given back yet, is idle. If for three seconds less than two
 * fifths of the heap is live, though few of its pages are free, whole pages inside its free blocks go, too. If that is too early, after the
 * last time, it is done later, however little is freed then.
 *
 * Large objects are given back as they are freed, once more than a share of such memory is idle (malloc.c asks preload_may_release).
 *
 * A program that takes memory again soon after it was given back pays for new pages each time. Once that happened memory is given back no more
 * often than each 64 milliseconds, and each further time a quarter as often, down to once in a second.
 */
#define _GNU_SOURCE
#include <time.h>

#include <kmalloc_port.h>

#include "preload.h"

/* Objects that move between two looks, or bytes of large ones, or by which what is free changes. */
#define LOOK_OPERATIONS 4096
#define LOOK_BYTES ((size_t)4 << 20)
/* Less than this, or than this share of what is resident of the heap, is not worth it. */
#define IDLE_MIN ((size_t)4 << 20)
#define IDLE_SHARE 8

/* Memory that is needed again within this time should not have been given back. */
#define REGRET_MS 1000
#define REGRET 2       /* so often the time between two times doubles for each, */
#define REGRET_FIRST 6 /* and to 2^6 milliseconds for the first one */
#define REGRETS_MAX 10 /* 2^10 milliseconds */
/* What is freed so soon after each other goes together, as does what is freed while nothing large is taken. */
#define BURST_MS 8
/* Shorter runs are half of the system calls, and little of the memory. */
#define RUN_MIN ((size_t)20 << 10)
#define BATCH 64 /* runs, or holes, under the lock */
/* A purge that takes longer goes on later, after so many times what it took: whoever calls free is not to wait for all of a large heap. */
#define PURGE_MS 50
#define PURGE_PAUSES 4
/*
 * A hollow heap: three fifths of it are in use by nobody, but not free as pages. What it has of them inside free blocks is reclaimed when it was
 * hollow for so long, and more seldom if that brought little, or most was needed again before four times as long, until there is more of it by a
 * share of the heap: then less is live than it was.
 */
#define HOLLOW_MS 3000
#define HOLLOW_MAX 5 /* 2^5 times as seldom */
#define HOLLOW_SHARE 8
#define HOLLOW_RUN_MIN ((size_t)8 << 10) /* most holes are short */
#define LASTING 4

/* How much the heap had done at the last look. */
static uint64_t looked_at;
/* And what large objects moved since. */
static size_t moved_bytes;
static bool is_looking;

/* Two threads might look at once; what they then make of it is a guess, as it always is. */
static struct {
	size_t free_before; /* free bytes at the last look, */
	size_t given_back;  /* and the least since pages were given back, or came: so much is not resident */
	size_t needed; /* when it falls below this, most of what was given back was needed again; 0: it was, or little went back */
	size_t missed; /* half of what went with its chunks then, less what chunks came since; 0: little went, or that much came */
	uint64_t purged_at;
	uint64_t due_at;      /* when what the last look found, too early, can be given back; 0: it found nothing */
	uint64_t released_at; /* a large object, by itself, */
	bool is_emptying;     /* and none was taken since then */
	unsigned n_regrets;
	uint64_t pause_ms;    /* from the last purge to the next one, if that was not done with all */
	uint64_t hollow_from; /* it is hollow, or was reclaimed from; 0: it is not */
	uint64_t reclaimed_at;
	bool is_reclaiming; /* and not done with all */
	size_t reclaimed; /* when less is free, most of what was reclaimed is needed again; 0: it was, or is not any more */
	unsigned n_in_vain; /* so often that was in vain, */
	size_t hollow;      /* and the last time it was so hollow */
	bool is_awaited;    /* it is hollow, and will be reclaimed from when it was so for long enough */
	bool is_watched;    /* frees that caches take look, too */
} seen;

#define GET(field) __atomic_load_n(&seen.field, __ATOMIC_RELAXED)
#define SET(field, value) __atomic_store_n(&seen.field, value, __ATOMIC_RELAXED)

static size_t lesser(size_t a, size_t b)
{
	return a < b ? a : b;
}

static size_t less(size_t a, size_t b)
{
	return a > b ? a - b : 0;
}

/* Milliseconds of a clock that is cheap to read. */
static uint64_t now_ms(void)
{
	struct timespec now;

	if (clock_gettime(CLOCK_MONOTONIC_COARSE, &now) != 0)
		return 0;
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

struct purge {
	size_t min_bytes;
	uint64_t until_ms;
	size_t n_bytes; /* that went */
	bool is_done;
};

/*
 * The lock is held: no call of the heap here. Free pages hold nothing: what describes them lies elsewhere. Locked ones (mlock) stay, and
 * are not tried again while they lie as they do.
 */
static enum kheap_giving discard_free_run(void *ctx, const struct kheap_range *range)
{
	struct purge *purge = ctx;

	if (!preload_discard((void *)range->base, range->size_bytes))
		return KHEAP_STAYS;
	purge->n_bytes += range->size_bytes;
	return KHEAP_GIVEN_UP;
}

/* Some at a time, so that other threads do not wait long; of what lies in free blocks some become free pages first, if it is reclaimed. */
static void discard_free_runs(struct kheap *heap, struct purge *purge, bool reclaims)
{
	size_t n_holes = 0, n_runs;

	do {
		if (reclaims)
			n_holes = kheap_reclaim_pages(heap, purge->min_bytes, BATCH);
		n_runs = kheap_give_up_pages(heap, purge->min_bytes, BATCH, discard_free_run, purge);
		purge->is_done = n_holes < BATCH && n_runs < BATCH;
	} while (!purge->is_done && now_ms() < purge->until_ms);
}

/* True: something was given back. */
static bool purge_now(struct kheap *heap, struct purge *purge, bool reclaims)
{
	bool any = kheap_trim(heap) > 0;

	preload_unkeep();
	purge->is_done = true;
	/* In the hardened build they hold poison. */
	if (IS_HARDENED)
		return any;
	discard_free_runs(heap, purge, reclaims);
	return purge->n_bytes > 0 || any;
}

bool preload_purge(struct kheap *heap)
{
	struct purge purge = { .min_bytes = KMALLOC_PAGE_SIZE, .until_ms = UINT64_MAX };

	return purge_now(heap, &purge, true);
}

/* How much of it was resident is not known: as if nothing had been, so that rather too much than too little passes for idle. */
void preload_note_unmapped(size_t size_bytes)
{
	SET(given_back, less(GET(given_back), size_bytes));
	SET(needed, less(GET(needed), size_bytes));
	SET(reclaimed, less(GET(reclaimed), size_bytes));
}

/* Since memory was given back; another thread may have done so just now. */
static uint64_t since(uint64_t now)
{
	uint64_t then = GET(purged_at);

	return now > then ? now - then : 0;
}

/* May memory be given back already? */
static bool is_time(uint64_t since_ms)
{
	return since_ms >= (uint64_t)1 << GET(n_regrets);
}

/* Memory is given back now: was what was given back the last time not needed again? */
static void forget_regrets(uint64_t since_ms)
{
	if ((GET(needed) || GET(missed)) && since_ms >= REGRET_MS)
		SET(n_regrets, GET(n_regrets) / 2);
}

/* What two threads note at once may count once: it is begun anew at each look. */
void preload_note_moved(size_t size_bytes)
{
	__atomic_store_n(&moved_bytes, __atomic_load_n(&moved_bytes, __ATOMIC_RELAXED) + size_bytes, __ATOMIC_RELAXED);
}

void preload_note_taken(void)
{
	if (GET(is_emptying))
		SET(is_emptying, false);
}

/* What was given back is needed again, most of it as pages or as chunks. */
static void regret(uint64_t now)
{
	unsigned n = GET(n_regrets) + REGRET;

	if (since(now) < REGRET_MS)
		SET(n_regrets, n < REGRET_FIRST ? REGRET_FIRST : n > REGRETS_MAX ? REGRETS_MAX : n);
	SET(needed, 0);
	SET(missed, 0);
}

/* To reclaim what lies in free blocks brought little, or for a short time: that is the worse for a program. */
static void note_in_vain(unsigned weight)
{
	unsigned n = GET(n_in_vain) + weight;

	SET(n_in_vain, n < HOLLOW_MAX ? n : HOLLOW_MAX);
}

static uint64_t hollow_wait_ms(void)
{
	return (uint64_t)HOLLOW_MS << GET(n_in_vain);
}

/* Was most of what was reclaimed needed again, or is it still free after long? */
static void judge_reclaimed(size_t n_free, uint64_t now)
{
	bool is_needed = n_free < GET(reclaimed), is_late = now >= GET(reclaimed_at) + LASTING * hollow_wait_ms();

	if (!GET(reclaimed) || !(is_needed || is_late))
		return;
	SET(reclaimed, 0);
	if (!is_needed) {
		SET(n_in_vain, GET(n_in_vain) / 2);
		return;
	}
	note_in_vain(2);
	SET(is_reclaiming, false);
}

void preload_note_mapped(size_t size_bytes)
{
	size_t missed = GET(missed);

	SET(given_back, GET(given_back) + size_bytes);
	if (GET(needed))
		SET(needed, GET(needed) + size_bytes);
	if (GET(reclaimed))
		SET(reclaimed, GET(reclaimed) + size_bytes);
	if (missed > size_bytes)
		SET(missed, missed - size_bytes);
	else if (missed)
		regret(now_ms());
}

/* What of the free memory is still as it was given back; was most of it needed again? */
static size_t notice(size_t n_free, uint64_t now)
{
	size_t given_back = lesser(n_free, GET(given_back));

	if (given_back < GET(needed))
		regret(now);
	SET(given_back, given_back);
	return given_back;
}

bool preload_may_release(struct kheap *heap, size_t size_bytes)
{
	uint64_t now = now_ms(), since_ms = since(now);
	size_t given_back = notice(kheap_get_glance(heap).free_page_bytes, now);
	bool is_burst = GET(needed) && (GET(is_emptying) || now - GET(released_at) <= BURST_MS);

	if (!is_burst && !is_time(since_ms))
		return false;
	if (!is_burst) {
		forget_regrets(since_ms);
		SET(purged_at, now);
		SET(needed, given_back);
		SET(missed, 0);
	}
	SET(released_at, now);
	SET(is_emptying, true);
	SET(needed, GET(needed) + size_bytes / 2);
	SET(given_back, given_back + size_bytes);
	return true;
}

static size_t in_use(const struct kheap_glance *glance)
{
	return less(glance->footprint_bytes, glance->overhead_bytes);
}

/* Neither live nor free pages. */
static size_t hollow_bytes(const struct kheap_glance *glance)
{
	return less(in_use(glance), glance->free_page_bytes + glance->live_bytes);
}

/* Was it in vain to reclaim what lies in free blocks? What became pages, or went with its chunk, tells; and later, whether it is needed again. */
static void note_reclaimed(const struct kheap_glance *before, size_t n_free, size_t brought, bool is_all)
{
	bool goes_on = GET(is_reclaiming);

	SET(is_reclaiming, !is_all);
	if (is_all && !goes_on && (brought <= IDLE_MIN || brought <= hollow_bytes(before) / HOLLOW_SHARE))
		note_in_vain(1);
	SET(reclaimed, goes_on && GET(reclaimed) ? GET(reclaimed) + brought / 2 : less(n_free, brought / 2));
	if (!goes_on)
		SET(hollow, hollow_bytes(before));
}

static void purge_idle(struct kheap *heap, uint64_t now, uint64_t since_ms, bool reclaims)
{
	struct purge purge = { .min_bytes = reclaims ? HOLLOW_RUN_MIN : RUN_MIN, .until_ms = now + PURGE_MS };
	struct kheap_glance before = kheap_get_glance(heap), after;
	size_t n_free, given_back, idle, gone;

	forget_regrets(since_ms);
	purge_now(heap, &purge, reclaims);
	after = kheap_get_glance(heap);
	n_free = after.free_page_bytes;
	gone = less(before.footprint_bytes, after.footprint_bytes);
	if (reclaims) {
		note_reclaimed(&before, n_free, less(n_free + gone, before.free_page_bytes), purge.is_done);
		SET(reclaimed_at, now);
		SET(hollow_from, now);
	}
	given_back = purge.is_done ? n_free : lesser(n_free, GET(given_back) + purge.n_bytes);
	idle = less(given_back, GET(given_back));
	/* In the hardened build whole chunks went, which do not count as free any more, but no single pages. */
	SET(given_back, IS_HARDENED ? 0 : given_back);
	SET(free_before, n_free);
	/* Little is no loss, and comes back by itself. */
	SET(needed, idle > IDLE_MIN ? given_back - idle / 2 : 0);
	SET(missed, gone > IDLE_MIN ? gone / 2 : 0);
	SET(purged_at, now);
	SET(pause_ms, purge.is_done ? 0 : 1 + (now_ms() - now) * PURGE_PAUSES);
	if (!purge.is_done)
		SET(due_at, now + GET(pause_ms));
}

/* The heap is hollow: what lies in its free blocks can be reclaimed then. */
static void await(uint64_t due_at)
{
	SET(due_at, due_at);
	SET(is_awaited, true);
}

static void look(struct kheap *heap, const struct kheap_glance *glance)
{
	uint64_t now = now_ms(), since_ms = since(now);
	size_t n_free = glance->free_page_bytes, given_back = notice(n_free, now);
	size_t share = less(in_use(glance), given_back) / IDLE_SHARE;
	size_t limit = share > IDLE_MIN ? share : IDLE_MIN;
	size_t hollow = hollow_bytes(glance);
	bool is_idle = lesser(n_free, GET(free_before)) > given_back + limit;
	bool is_hollow = hollow > IDLE_MIN && 2 * hollow > 3 * glance->live_bytes;
	uint64_t wait_ms = (uint64_t)1 << GET(n_regrets), reclaim_at;
	bool reclaims;

	judge_reclaimed(n_free, now);
	if (wait_ms < GET(pause_ms))
		wait_ms = GET(pause_ms);
	if (hollow > GET(hollow) + in_use(glance) / HOLLOW_SHARE)
		SET(n_in_vain, 0);
	if (!is_hollow || !GET(hollow_from))
		SET(hollow_from, is_hollow ? now : 0);
	reclaim_at = GET(hollow_from) + hollow_wait_ms();
	reclaims = GET(is_reclaiming) || (is_hollow && now >= reclaim_at);
	SET(due_at, 0);
	SET(is_awaited, false);
	if (since_ms >= wait_ms && (is_idle || reclaims)) {
		purge_idle(heap, now, since_ms, reclaims);
		/* What lies in free blocks is left, or more of it. */
		if (is_hollow && !GET(due_at))
			await(GET(hollow_from) + hollow_wait_ms());
		return;
	}
	if (is_idle || reclaims)
		SET(due_at, now + wait_ms - since_ms);
	else if (is_hollow)
		await(now + wait_ms > reclaim_at + since_ms ? now + wait_ms - since_ms : reclaim_at);
	if (!is_idle && !reclaims)
		SET(pause_ms, 0);
	SET(free_before, n_free);
}

/* Is there something to give back, as the last look found, and has its time come? Programs that freed much may do little from then on. */
static bool is_due(void)
{
	uint64_t due_at = GET(due_at);

	return due_at && now_ms() >= due_at;
}

/*
 * It may be that all that the program does until something is due is done in caches: then frees look for it there, too. Not where it was in vain,
 * or a program whose heap is always hollow would pay for that.
 */
static void watch(void)
{
	SET(is_watched, GET(pause_ms) || (GET(is_awaited) && !GET(n_in_vain)));
}

/* In a fork's child, too: who looked may not be there. */
void preload_look_end(void)
{
	preload_watch_frees(GET(is_watched));
	__atomic_store_n(&is_looking, false, __ATOMIC_RELEASE);
}

void preload_look(struct kheap *heap)
{
	struct kheap_glance glance = kheap_get_glance(heap);
	uint64_t last = __atomic_load_n(&looked_at, __ATOMIC_RELAXED);

	if (glance.n_operations - last < LOOK_OPERATIONS &&
	    glance.free_page_bytes - GET(free_before) + LOOK_BYTES < 2 * LOOK_BYTES &&
	    __atomic_load_n(&moved_bytes, __ATOMIC_RELAXED) < LOOK_BYTES && !is_due())
		return;
	/* One thread alone looks, and nobody while it gives back what it saw. */
	if (__atomic_load_n(&is_looking, __ATOMIC_RELAXED) ||
	    !__atomic_compare_exchange_n(&looked_at, &last, glance.n_operations, false, __ATOMIC_ACQ_REL,
	                                 __ATOMIC_RELAXED) ||
	    __atomic_exchange_n(&is_looking, true, __ATOMIC_ACQUIRE))
		return;
	__atomic_store_n(&moved_bytes, 0, __ATOMIC_RELAXED);
	look(heap, &glance);
	watch();
	preload_look_end();
}
