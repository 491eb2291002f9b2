/* SPDX-License-Identifier: MIT */
/*
 * The same work on 1, 2, ... processors at once: a line for each number of them as soon as it is measured. Draws only between runs,
 * when this processor is the only one at work.
 */
#include "../suite/scale.h"
#include "../suite/text.h"
#include "measure_view.h"

struct scale_view {
	struct measure_view view;
	struct scale_result result;
};

static void draw_line(struct ui *ui, void *ctx, unsigned row, size_t index)
{
	const struct scale_view *view = ctx;
	const struct scale_row *line = &view->result.rows[index];
	struct screen *screen = ui->screen;

	screen_text(screen, row, LAYOUT_TEXT, LAYOUT_SCALE_ENGINE, STYLE_NORMAL, line->engine);
	screen_print_right(screen, row, LAYOUT_SCALE_CPUS_END, STYLE_BRIGHT, "%u", line->n_cpus);
	for (unsigned pattern = 0; pattern < SCALE_N_PATTERNS; pattern++) {
		unsigned end = LAYOUT_SCALE_FIRST_END + pattern * LAYOUT_SCALE_COLUMN;
		char figure[24], ratio[16];

		scale_format(line, (enum scale_pattern)pattern, figure, sizeof(figure), ratio, sizeof(ratio));
		screen_print_right(screen, row, end, STYLE_NORMAL, "%s", figure);
		screen_print_right(screen, row, end + LAYOUT_SCALE_RATIO, STYLE_BRIGHT, "%s", ratio);
	}
}

static void draw_heading(struct ui *ui, void *ctx, unsigned row)
{
	(void)ctx;
	screen_text(ui->screen, row, LAYOUT_TEXT, LAYOUT_SCALE_ENGINE, STYLE_DIM, "Engine");
	screen_print_right(ui->screen, row, LAYOUT_SCALE_CPUS_END, STYLE_DIM, "CPU");
	for (unsigned pattern = 0; pattern < SCALE_N_PATTERNS; pattern++)
		screen_print_right(ui->screen, row,
		                   LAYOUT_SCALE_FIRST_END + pattern * LAYOUT_SCALE_COLUMN + LAYOUT_SCALE_RATIO,
		                   STYLE_DIM, "%s", scale_patterns[pattern]);
}

static enum suite_outcome measure(struct measure_view *view, const struct suite_options *options,
                                  struct measure_observer *observer)
{
	struct scale_result *result = &((struct scale_view *)view)->result;

	suite_scale(view->run.ui->host, options, observer, result);
	view->failure = result->failure;
	return result->outcome;
}

void scale_screen(struct ui *ui)
{
	/* Too large for a firmware's stack frame. */
	static struct scale_view view;
	int key;

	view.result.n_rows = 0;
	view.view = (struct measure_view){
		.title = "Processors",
		.note = "Operations (an alloc and a free) per second, and ratio to one CPU.",
		.keys = "",
		.n_rows = &view.result.n_rows,
		.measure = measure,
		.draw_heading = draw_heading,
		.draw_line = draw_line,
	};
	measure_view_run(&view.view, ui);
	do
		key = measure_view_wait(&view.view);
	while (key != HOST_KEY_ENTER && key != HOST_KEY_ESC && key != 'q');
}
