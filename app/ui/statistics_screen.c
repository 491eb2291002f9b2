/* SPDX-License-Identifier: MIT */
/*
 * What the menu's heap says of itself: its counts, its regions, and whether every invariant holds. Only reads the heap.
 */
#include "../suite/text.h"
#include "widgets.h"

enum unit { UNIT_BYTES, UNIT_COUNT, UNIT_PERMILLE };

struct figure {
	const char *label;
	uint64_t value;
	enum unit unit;
};

#define MAX_FIGURES 24

struct statistics {
	struct kheap *heap;
	struct figure figures[MAX_FIGURES];
	size_t n_figures, n_regions;
	char verdict[160]; /* of the check that was asked for */
	enum style verdict_style;
	struct pager pager;
};

static void add(struct statistics *statistics, const char *label, uint64_t value, enum unit unit)
{
	if (statistics->n_figures < MAX_FIGURES)
		statistics->figures[statistics->n_figures++] = (struct figure){ label, value, unit };
}

static void read_heap(struct statistics *statistics)
{
	struct kheap_stats stats;
	struct kpage_chunk region;

	kheap_get_stats(statistics->heap, &stats);
	statistics->n_figures = 0;
	add(statistics, "Live", stats.live_bytes, UNIT_BYTES);
	add(statistics, "Most that was live", stats.peak_live_bytes, UNIT_BYTES);
	add(statistics, "Live objects", stats.live_objects, UNIT_COUNT);
	add(statistics, "Footprint", stats.footprint_bytes, UNIT_BYTES);
	add(statistics, "Largest footprint", stats.peak_footprint_bytes, UNIT_BYTES);
	add(statistics, "Own descriptors", stats.overhead_bytes, UNIT_BYTES);
	add(statistics, "Free inside", stats.free_bytes, UNIT_BYTES);
	add(statistics, "Largest free range", stats.largest_free_bytes, UNIT_BYTES);
	add(statistics, "Least ever free", stats.min_free_bytes, UNIT_BYTES);
	add(statistics, "Free ranges", stats.n_free_ranges, UNIT_COUNT);
	add(statistics, "Fragmentation", stats.fragmentation_permille, UNIT_PERMILLE);
	add(statistics, "Allocations", stats.n_allocs, UNIT_COUNT);
	add(statistics, "Frees", stats.n_frees, UNIT_COUNT);
	add(statistics, "Refused", stats.n_failures, UNIT_COUNT);
	add(statistics, "Misuses reported", stats.n_errors, UNIT_COUNT);
	add(statistics, "Chunks got", stats.n_grown, UNIT_COUNT);
	add(statistics, "Chunks given back", stats.n_shrunk, UNIT_COUNT);
	for (statistics->n_regions = 0; kheap_region(statistics->heap, statistics->n_regions, &region);)
		statistics->n_regions++;
	/* A blank line and a heading stand between. */
	statistics->pager.n_lines = statistics->n_figures + 2 + statistics->n_regions;
}

static void draw_figure(struct ui *ui, unsigned row, const struct figure *figure)
{
	struct screen *screen = ui->screen;
	char text[16];

	screen_text(screen, row, LAYOUT_TEXT, LAYOUT_FIGURE_END, STYLE_NORMAL, figure->label);
	switch (figure->unit) {
	case UNIT_PERMILLE:
		screen_print_right(screen, row, LAYOUT_EXACT_END, STYLE_BRIGHT, "%u.%u %%",
		                   (unsigned)(figure->value / 10), (unsigned)(figure->value % 10));
		break;
	case UNIT_BYTES:
		screen_print_right(screen, row, LAYOUT_UNITS_END, STYLE_NORMAL, "%s",
		                   text_bytes(text, sizeof(text), figure->value));
		/* fallthrough */
	default:
		screen_print_right(screen, row, LAYOUT_EXACT_END, STYLE_BRIGHT, "%'ju", (uintmax_t)figure->value);
		break;
	}
}

static void draw_region(struct ui *ui, unsigned row, const struct statistics *statistics, size_t index)
{
	struct screen *screen = ui->screen;
	struct kpage_chunk region;
	char text[16];

	if (!kheap_region(statistics->heap, index, &region))
		return;
	uintmax_t last = (uintmax_t)region.base + region.n_pages * KMALLOC_PAGE_SIZE - 1;
	screen_print(screen, row, LAYOUT_TEXT, STYLE_NORMAL, "%016jx  %016jx", (uintmax_t)region.base, last);
	screen_print_right(screen, row, LAYOUT_EXACT_END, STYLE_BRIGHT, "%'zu", region.n_pages);
	screen_print_right(screen, row, LAYOUT_UNITS_END, STYLE_NORMAL, "%s",
	                   text_bytes(text, sizeof(text), region.n_pages * (uint64_t)KMALLOC_PAGE_SIZE));
}

static void draw_line(struct ui *ui, void *ctx, unsigned row, size_t index)
{
	const struct statistics *statistics = ctx;

	if (index < statistics->n_figures) {
		draw_figure(ui, row, &statistics->figures[index]);
	} else if (index == statistics->n_figures + 1) {
		screen_text(ui->screen, row, LAYOUT_TEXT, LAYOUT_EXACT_END, STYLE_DIM, "Region: first byte  last byte");
		screen_print_right(ui->screen, row, LAYOUT_EXACT_END, STYLE_DIM, "pages");
		screen_print_right(ui->screen, row, LAYOUT_UNITS_END, STYLE_DIM, "size");
	} else if (index > statistics->n_figures + 1) {
		draw_region(ui, row, statistics, index - statistics->n_figures - 2);
	}
}

static void draw(struct ui *ui, struct statistics *statistics)
{
	char keys[96], parameter[40], text[16];
	bool is_running = statistics->heap != NULL;

	text_format(parameter, sizeof(parameter), "up to %s", text_bytes(text, sizeof(text), ui->heap_budget));
	frame_begin(ui, "Heap statistics", parameter, "");
	unsigned row = LAYOUT_BODY_ROW, end = frame_body_end(ui);
	unsigned rows = end - row, columns = ui->screen->columns;
	/* The verdict stands in the last rows of the body, below a blank one. */
	unsigned n_verdict = columns > 2 * LAYOUT_TEXT
	                             ? wrapped_lines(statistics->verdict, columns - LAYOUT_TEXT - LAYOUT_MARGIN)
	                             : 0;

	if (!is_running) {
		char problem[200];
		text_format(problem, sizeof(problem), "The heap is not running. %s Choose a smaller heap in Settings.",
		            ui->heap_problem);
		paragraph(ui, row + (rows > 2), LAYOUT_TEXT, rows, STYLE_BAD, problem);
	}
	if (n_verdict > 0 && rows > n_verdict + 2) {
		paragraph(ui, end - n_verdict, LAYOUT_TEXT, n_verdict, statistics->verdict_style, statistics->verdict);
		rows -= n_verdict + 1;
	}
	text_format(keys, sizeof(keys), "Esc back%s%s", is_running ? "   C check" : "",
	            is_running ? pager_keys(ui, statistics->pager.n_lines, rows) : "");
	screen_text(ui->screen, ui->screen->rows - 1, LAYOUT_MARGIN, ui->screen->columns, STYLE_NORMAL, keys);
	if (is_running)
		pager_draw(ui, &statistics->pager, row, rows, draw_line, statistics);
	screen_flush(ui->screen);
}

static void check(struct statistics *statistics)
{
	struct kheap_fault fault;
	size_t n_faults = kheap_check(statistics->heap, &fault);

	if (n_faults == 0) {
		text_copy(statistics->verdict, sizeof(statistics->verdict),
		          "Checked: every invariant of the heap holds.");
		statistics->verdict_style = STYLE_GOOD;
		return;
	}
	text_format(statistics->verdict, sizeof(statistics->verdict), "Checked: %'zu fault%s, the first at %016jx: %s",
	            n_faults, n_faults == 1 ? "" : "s", (uintmax_t)fault.address, kheap_fault_name(fault.fault_class));
	statistics->verdict_style = STYLE_BAD;
}

void statistics_screen(struct ui *ui)
{
	struct statistics statistics = { .heap = ui_heap(ui) };

	for (;;) {
		if (statistics.heap != NULL)
			read_heap(&statistics);
		draw(ui, &statistics);
		int key = key_letter(wait_key(ui));
		if (pager_key(&statistics.pager, key))
			continue;
		if (key == 'c' && statistics.heap != NULL)
			check(&statistics);
		if (key == HOST_KEY_ENTER || key == HOST_KEY_ESC || key == 'q')
			return;
	}
}
