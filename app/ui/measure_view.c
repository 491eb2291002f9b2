/* SPDX-License-Identifier: MIT */
/*
 * A measurement on the screen. Draws only when the measurement asks, which is never while something is timed.
 */
#include "measure_view.h"

#include "../suite/text.h"

#define SECONDS 10

/* The progress, or how it ended; returns the row below. */
static unsigned draw_state(struct measure_view *view, unsigned row)
{
	struct ui *ui = view->run.ui;
	unsigned width = ui->screen->columns > 50 ? ui->screen->columns - 40 : 20;

	if (!view->is_over) {
		bar(ui, row, LAYOUT_TEXT, width, view->permille, 1000);
		screen_print(ui->screen, row, LAYOUT_TEXT + width + 2, STYLE_NORMAL, "%u %%  %s", view->permille / 10,
		             view->what);
	} else if (view->outcome == SUITE_CANNOT_RUN) {
		return row + paragraph(ui, row, LAYOUT_TEXT, 2, STYLE_BAD, view->failure) + 1;
	} else {
		screen_print(ui->screen, row, LAYOUT_TEXT, STYLE_BRIGHT, "%s %s",
		             view->outcome == SUITE_STOPPED ? "STOPPED." : "DONE.", view->note);
	}
	return row + 2;
}

static void draw(struct measure_view *view)
{
	struct ui *ui = view->run.ui;
	unsigned row, end, n_rows = *view->n_rows;
	char keys[80];

	text_format(keys, sizeof(keys), "%s%s%s", view->is_over ? "Enter back" : "Esc stop (asks)",
	            view->is_over ? view->keys : "",
	            view->is_over ? pager_keys(ui, n_rows, frame_body_rows(ui) - 3) : "");
	frame_begin(ui, view->title, ui->host->is_virtual_machine ? "virtual machine: do not compare" : "", keys);
	end = frame_body_end(ui);
	row = draw_state(view, LAYOUT_BODY_ROW);
	if (row + 2 < end && (n_rows > 0 || !view->is_over)) {
		view->draw_heading(ui, view, row++);
		view->pager.n_lines = n_rows;
		/* What was measured last is what one watches. */
		if (!view->is_over)
			view->pager.top = n_rows;
		pager_draw(ui, &view->pager, row, end - row, view->draw_line, view);
	}
	screen_flush(ui->screen);
}

static enum suite_control on_progress(void *ctx, unsigned permille, const char *what)
{
	struct measure_view *view = ctx;
	int key = poll_key(view->run.ui);

	view->permille = permille;
	view->what = what;
	if (key == HOST_KEY_ESC)
		view->is_stopping = run_ask_stop(&view->run);
	if (key == HOST_KEY_ESC || key == KEY_REDRAW || run_may_draw(&view->run))
		draw(view);
	return view->is_stopping ? SUITE_STOP : SUITE_GO_ON;
}

void measure_view_run(struct measure_view *view, struct ui *ui)
{
	struct suite_options options = *ui->options;
	struct measure_observer observer = { view, on_progress };

	options.seconds = SECONDS;
	options.group = NULL;
	view->what = "";
	/* The measurement starts a heap of its own. */
	ui_heap_stop(ui);
	run_begin(&view->run, ui);
	draw(view);
	view->outcome = view->measure(view, &options, &observer);
	ui_heap_start(ui);
	run_ended(ui, view->outcome);
	view->is_over = true;
	view->pager.top = 0;
}

int measure_view_wait(struct measure_view *view)
{
	int key;

	do {
		draw(view);
		key = key_letter(wait_key(view->run.ui));
	} while (pager_key(&view->pager, key));
	return key;
}
