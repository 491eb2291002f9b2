/* SPDX-License-Identifier: MIT */
/*
 * The benchmark: a line for each workload as soon as it is measured, a column for each engine, the median in each cell. The
 * numbers with their minima and ratios are what `kmalloc bench` prints. From here a key leads on to several processors.
 */
#include "../suite/bench.h"
#include "../suite/text.h"
#include "measure_view.h"

#define DECIMAL 2 /* cells of a point and a digit */

struct bench_view {
	struct measure_view view;
	struct bench_result result;
};

/* What ends in units: one decimal below 1000, none below 100,000, thousands above. The units stand below each other. */
static void draw_figure(struct screen *screen, unsigned row, unsigned end, enum style style, uint64_t milli)
{
	char figure[24];

	if (milli < 1000000) {
		screen_print_right(screen, row, end, style, "%s", measure_decimal(figure, sizeof(figure), milli, 1));
		return;
	}
	screen_print_right(screen, row, end - DECIMAL, style, "%'ju",
	                   (uintmax_t)((milli < 100000000 ? milli : milli / 1000) + 500) / 1000);
	if (milli >= 100000000)
		screen_cell(screen, row, end - DECIMAL, style, 'k');
}

static void draw_line(struct ui *ui, void *ctx, unsigned row, size_t index)
{
	const struct bench_view *view = ctx;
	const struct bench_row *line = &view->result.rows[index];
	const struct meter *meter = &view->result.meter;
	struct screen *screen = ui->screen;

	screen_text(screen, row, LAYOUT_TEXT, LAYOUT_BENCH_WHAT - LAYOUT_TEXT - 1, STYLE_BRIGHT, line->workload->name);
	screen_text(screen, row, LAYOUT_BENCH_WHAT,
	            LAYOUT_BENCH_FIRST_END - LAYOUT_BENCH_COLUMN - LAYOUT_BENCH_WHAT + 1, STYLE_NORMAL,
	            line->workload->what);
	for (unsigned lane = 0; lane < view->result.n_lanes; lane++) {
		const struct bench_cell *cell = &line->cells[lane];
		unsigned end = LAYOUT_BENCH_FIRST_END + lane * LAYOUT_BENCH_COLUMN;
		uint64_t milli = meter->has_time ? meter_milli_ns(meter, cell->median) : cell->median;

		if (end > screen->columns)
			break;
		if (cell->why_not != NULL)
			screen_print_right(screen, row, end - DECIMAL, STYLE_NORMAL, "-");
		else
			draw_figure(screen, row, end, lane == BENCH_LANE_HEAP ? STYLE_BRIGHT : STYLE_NORMAL, milli);
	}
}

static void draw_heading(struct ui *ui, void *ctx, unsigned row)
{
	const struct bench_result *result = &((const struct bench_view *)ctx)->result;

	if (result->n_lanes == 0)
		return;
	screen_print(ui->screen, row, LAYOUT_TEXT, STYLE_DIM, "%s per operation, median",
	             result->meter.has_time     ? "Nanoseconds"
	             : result->meter.has_cycles ? "Cycles"
	                                        : "Ticks");
	for (unsigned lane = 0; lane < result->n_lanes; lane++) {
		unsigned end = LAYOUT_BENCH_FIRST_END + lane * LAYOUT_BENCH_COLUMN;

		if (end <= ui->screen->columns)
			screen_print_right(ui->screen, row, end, STYLE_DIM, "%s", result->lanes[lane]);
	}
}

static enum suite_outcome measure(struct measure_view *view, const struct suite_options *options,
                                  struct measure_observer *observer)
{
	struct bench_result *result = &((struct bench_view *)view)->result;

	suite_bench(view->run.ui->host, options, observer, result);
	view->failure = result->failure;
	return result->outcome;
}

void bench_screen(struct ui *ui)
{
	/* Too large for a firmware's stack frame. */
	static struct bench_view view;
	int key;

	view.result.n_rows = view.result.n_lanes = 0;
	view.view = (struct measure_view){
		.title = "Benchmark",
		.note = "`loop` is the loop around the calls, and is in each figure.",
		.keys = "   S processors",
		.n_rows = &view.result.n_rows,
		.measure = measure,
		.draw_heading = draw_heading,
		.draw_line = draw_line,
	};
	measure_view_run(&view.view, ui);
	do {
		key = measure_view_wait(&view.view);
		if (key == 's')
			scale_screen(ui);
	} while (key != HOST_KEY_ENTER && key != HOST_KEY_ESC && key != 'q');
}
