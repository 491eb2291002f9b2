/* SPDX-License-Identifier: MIT */
/*
 * The ancestor as an engine: one area of the host's pages, as large as the budget. Its size limit is raised,
 * because the same random work shall run on every engine.
 */
#include "../classic/classic.h"

#include "allocator.h"
#include "text.h"

#define MAX_SIZE ((size_t)1 << 20)

static struct classic classic;
static struct kpage_chunk area;
static struct kpage_source pages;

static void trace(void *ctx, enum classic_event event, const void *address, size_t size_bytes, size_t free_bytes)
{
	(void)ctx;
	(void)size_bytes;
	(void)free_bytes;
	if (event != CLASSIC_DOUBLE_FREE && event != CLASSIC_FOREIGN && event != CLASSIC_DAMAGED)
		return;
	engine_classic.n_errors++;
	text_format(engine_classic.last_error, sizeof(engine_classic.last_error), "%s at %p",
	            event == CLASSIC_DOUBLE_FREE ? "double free"
	            : event == CLASSIC_FOREIGN   ? "foreign pointer"
	                                         : "damaged header",
	            address);
}

static bool start(struct allocator *engine, struct host *host, size_t budget_bytes, const char **why)
{
	size_t n_pages = budget_bytes / KMALLOC_PAGE_SIZE;
	struct kpage_request request = { .min_pages = n_pages, .want_pages = n_pages, .max_address = UINTPTR_MAX };

	if (n_pages == 0) {
		*why = "The budget is less than a page.";
		return false;
	}
	if (!host->pages.get(host->pages.ctx, &request, &area)) {
		*why = "The host has no free range of that size; classic needs one. Give it a smaller -heap.";
		return false;
	}
	pages = host->pages;
	if (!classic_init(&classic, (void *)area.base, area.n_pages * KMALLOC_PAGE_SIZE)) {
		pages.put(pages.ctx, &area);
		*why = "The area is too small for one block.";
		return false;
	}
	classic.max_size = MAX_SIZE;
	classic.trace = trace;
	engine->n_errors = 0;
	engine->last_error[0] = '\0';
	engine->ctx = &classic;
	engine->is_started = true;
	return true;
}

static void stop(struct allocator *engine)
{
	if (engine->is_started)
		pages.put(pages.ctx, &area);
	engine->ctx = NULL;
	engine->is_started = false;
}

static void *alloc(struct allocator *engine, size_t size_bytes)
{
	return classic_alloc(engine->ctx, size_bytes);
}

static void release(struct allocator *engine, void *object)
{
	classic_free(engine->ctx, object);
}

static size_t usable_size(struct allocator *engine, void *object)
{
	return classic_usable_size(engine->ctx, object);
}

static bool check(struct allocator *engine, const char **what)
{
	*what = classic_check(engine->ctx);
	return *what == NULL;
}

static void stats(struct allocator *engine, struct allocator_stats *stats)
{
	(void)engine;
	stats->live_bytes = classic.end - classic.begin - classic.free_bytes;
	stats->footprint_bytes = area.n_pages * KMALLOC_PAGE_SIZE;
}

struct allocator engine_classic = {
	.name = "classic",
	.description = "the ancestor: next fit, one header in front of each block",
	.alignment = CLASSIC_ALIGNMENT,
	.max_size = MAX_SIZE,
	.is_bounded = true,
	.start = start,
	.stop = stop,
	.alloc = alloc,
	.free = release,
	.usable_size = usable_size,
	.check = check,
	.stats = stats,
};
