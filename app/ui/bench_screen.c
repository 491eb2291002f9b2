/* SPDX-License-Identifier: MIT */
/*
 * The benchmark: a line for each workload as soon as it is measured, a column for each engine, the median in each cell. The
 * numbers with their minima and ratios are what `kmalloc bench` prints.
 */
#include "../suite/bench.h"
#include "../suite/text.h"
#include "run.h"

#define SECONDS 10

struct bench_view {
	struct run run;
	struct bench_result result;
	struct pager pager;
	unsigned permille;
	const char *what;
	bool is_over, is_stopping;
};

static void draw_line(struct ui *ui, void *ctx, unsigned row, size_t index)
{
	const struct bench_view *view = ctx;
	const struct bench_row *line = &view->result.rows[index];
	const struct meter *meter = &view->result.meter;
	struct screen *screen = ui->screen;
	char figure[24];

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
		/* A fifth digit says nothing that the first four do not. */
		measure_decimal(figure, sizeof(figure), milli, milli < 1000000 ? 1 : 0);
		screen_print_right(screen, row, end, lane == BENCH_LANE_HEAP ? STYLE_BRIGHT : STYLE_NORMAL, "%s",
		                   cell->why_not == NULL ? figure : "-");
	}
}

static void draw_heading(struct ui *ui, unsigned row, const struct bench_view *view)
{
	const struct bench_result *result = &view->result;

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

static void draw(struct bench_view *view)
{
	struct ui *ui = view->run.ui;
	unsigned row = LAYOUT_BODY_ROW, end, width = ui->screen->columns > 50 ? ui->screen->columns - 40 : 20;
	char keys[64];

	text_format(keys, sizeof(keys), "%s%s", view->is_over ? "Enter back" : "Esc stop (asks)",
	            view->is_over ? pager_keys(ui, view->pager.n_lines, frame_body_rows(ui) - 3) : "");
	frame_begin(ui, "Benchmark", ui->host->is_virtual_machine ? "virtual machine: do not compare" : "", keys);
	end = frame_body_end(ui);
	if (!view->is_over) {
		bar(ui, row, LAYOUT_TEXT, width, view->permille, 1000);
		screen_print(ui->screen, row, LAYOUT_TEXT + width + 2, STYLE_NORMAL, "%u %%  %s", view->permille / 10,
		             view->what);
	} else if (view->result.outcome == SUITE_CANNOT_RUN) {
		paragraph(ui, row, LAYOUT_TEXT, 2, STYLE_BAD, view->result.failure);
	} else {
		screen_text(ui->screen, row, LAYOUT_TEXT, ui->screen->columns, STYLE_BRIGHT,
		            view->result.outcome == SUITE_STOPPED
		                    ? "STOPPED"
		                    : "DONE. `loop` is the loop around the calls, and is in each figure.");
	}
	row += 2;
	if (row + 2 < end) {
		draw_heading(ui, row++, view);
		view->pager.n_lines = view->result.n_rows;
		/* What was measured last is what one watches. */
		if (!view->is_over)
			view->pager.top = view->result.n_rows;
		pager_draw(ui, &view->pager, row, end - row, draw_line, view);
	}
	screen_flush(ui->screen);
}

static enum suite_control on_progress(void *ctx, unsigned permille, const char *what)
{
	struct bench_view *view = ctx;
	int key = poll_key(view->run.ui);

	view->permille = permille;
	view->what = what;
	if (key == HOST_KEY_ESC)
		view->is_stopping = run_ask_stop(&view->run);
	if (key == HOST_KEY_ESC || key == KEY_REDRAW || run_may_draw(&view->run))
		draw(view);
	return view->is_stopping ? SUITE_STOP : SUITE_GO_ON;
}

void bench_screen(struct ui *ui)
{
	/* Too large for a firmware's stack frame. */
	static struct bench_view view;
	struct suite_options options = *ui->options;
	struct measure_observer observer = { &view, on_progress };
	int key;

	options.seconds = SECONDS;
	options.group = NULL;
	view.is_over = view.is_stopping = false;
	view.permille = 0;
	view.what = "";
	view.pager = (struct pager){ .n_lines = 0 };
	/* The bench starts a heap of its own. */
	ui_heap_stop(ui);
	run_begin(&view.run, ui);
	view.result.n_rows = view.result.n_lanes = 0;
	draw(&view);
	suite_bench(ui->host, &options, &observer, &view.result);
	ui_heap_start(ui);
	run_ended(ui, view.result.outcome);
	view.is_over = true;
	view.pager.top = 0;
	do {
		draw(&view);
		key = key_letter(wait_key(ui));
	} while (pager_key(&view.pager, key) || (key != HOST_KEY_ENTER && key != HOST_KEY_ESC && key != 'q'));
}
