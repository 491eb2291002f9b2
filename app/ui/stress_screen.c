/* SPDX-License-Identifier: MIT */
/*
 * The stress run: its figures while it runs, then the result. Told by the suite at most ten times a second; pauses
 * and questions wait inside that call, so that the work stands still.
 */
#include "../suite/text.h"
#include "run.h"

struct stress {
	struct run run;
	struct stress_progress progress;
	bool is_paused, is_stopping;
	struct stress_result result;
};

/* ------------------------------------------------------------------------------------------------------------
 * Figures
 * --------------------------------------------------------------------------------------------------------- */

/* A label, a value flush right, and two notes. */
static void figure(struct ui *ui, unsigned row, const char *label, const char *value, const char *note,
                   const char *note_2)
{
	struct screen *screen = ui->screen;

	screen_text(screen, row, LAYOUT_TEXT, LAYOUT_FIGURE_END, STYLE_DIM, label);
	screen_print_right(screen, row, LAYOUT_FIGURE_END, STYLE_BRIGHT, "%s", value);
	screen_text(screen, row, LAYOUT_FIGURE_NOTE, LAYOUT_FIGURE_NOTE_2 - LAYOUT_FIGURE_NOTE - 1, STYLE_NORMAL, note);
	screen_text(screen, row, LAYOUT_FIGURE_NOTE_2, screen->columns, STYLE_NORMAL, note_2);
}

static void operations_figure(struct ui *ui, unsigned row, const struct stress_progress *progress, bool is_over)
{
	char value[32], note[48];
	uint64_t operations = is_over ? progress->operations : four_digits(progress->operations);

	text_format(value, sizeof(value), "%'ju", (uintmax_t)operations);
	text_format(note, sizeof(note), "%'ju per second", (uintmax_t)four_digits(progress->operations_per_second));
	figure(ui, row, "Operations", value, note, "");
}

static void live_figure(struct ui *ui, unsigned row, const struct stress_progress *progress)
{
	char value[16], note[48], note_2[32], bytes[16];

	text_format(note, sizeof(note), "in %'ju blocks", (uintmax_t)four_digits(progress->live_objects));
	text_format(note_2, sizeof(note_2), "peak %s", text_bytes(bytes, sizeof(bytes), progress->peak_bytes));
	figure(ui, row, "Live", text_bytes(value, sizeof(value), progress->live_bytes), note, note_2);
}

static void footprint_figure(struct ui *ui, unsigned row, const struct stress_progress *progress)
{
	char value[16] = "unknown", note[32] = "", note_2[32];
	uint64_t live = progress->live_bytes, footprint = progress->footprint_bytes;

	if (footprint > 0)
		text_bytes(value, sizeof(value), footprint);
	/* Above ten times the live bytes a percentage says nothing: the heap is all but empty. */
	if (footprint >= live && live > 0 && footprint / live < 10)
		text_format(note, sizeof(note), "%u %% above live", proportion(footprint - live, live * 10, 1000));
	text_format(note_2, sizeof(note_2), "fill level %u %%", progress->fill_percent);
	figure(ui, row, "Footprint", value, note, note_2);
}

static void verified_figure(struct ui *ui, unsigned row, const struct stress_progress *progress)
{
	char value[16], note[40], note_2[48];

	text_format(note, sizeof(note), "failures %'ju", (uintmax_t)progress->failures);
	text_format(note_2, sizeof(note_2), "refused %'ju (full)", (uintmax_t)progress->refused);
	figure(ui, row, "Verified", text_bytes(value, sizeof(value), progress->verified_bytes), note, note_2);
}

static void checks_figure(struct ui *ui, unsigned row, const struct stress_progress *progress, bool is_over)
{
	char value[32], note[40] = "";

	text_format(value, sizeof(value), "%'ju", (uintmax_t)progress->checks);
	if (progress->checks > 0 && is_over)
		text_copy(note, sizeof(note), "times");
	else if (progress->checks > 0)
		text_format(note, sizeof(note), "times, last %'ju.%u s ago",
		            (uintmax_t)(progress->checked_ms_ago / 1000),
		            (unsigned)(progress->checked_ms_ago / 100 % 10));
	figure(ui, row, "Checked", value, note, "");
}

static unsigned draw_figures(struct ui *ui, unsigned row, const struct stress_progress *progress, bool is_over)
{
	operations_figure(ui, row++, progress, is_over);
	live_figure(ui, row++, progress);
	footprint_figure(ui, row++, progress);
	verified_figure(ui, row++, progress);
	checks_figure(ui, row++, progress, is_over);
	return row;
}

/* What the heap may hold, as one bar: live, held beyond that, and not taken. */
static void memory_bar(struct ui *ui, unsigned row, const struct stress_progress *progress)
{
	struct screen *screen = ui->screen;
	uint64_t capacity = progress->capacity_bytes;
	char text[16];

	if (capacity == 0 || screen->columns < 40)
		return;
	unsigned width = screen->columns - LAYOUT_TEXT - 16, cells = width - 2;
	unsigned live = proportion(progress->live_bytes, capacity, cells);
	unsigned held = proportion(progress->footprint_bytes, capacity, cells);

	if (held < live)
		held = live;
	bar(ui, row, LAYOUT_TEXT, width, live, cells);
	screen_fill(screen, row, LAYOUT_TEXT + 1 + live, held - live, STYLE_NORMAL, '+');
	screen_text(screen, row, LAYOUT_TEXT + width + 2, screen->columns, STYLE_NORMAL,
	            text_bytes(text, sizeof(text), capacity));
	screen_text(screen, row + 1, LAYOUT_TEXT, screen->columns, STYLE_DIM, "# live   + held besides   . not taken");
}

/* ------------------------------------------------------------------------------------------------------------
 * While it runs
 * --------------------------------------------------------------------------------------------------------- */

/* Thousandths done, and how long it still takes; false: there is no bound. */
static bool progress_of(const struct stress_progress *progress, unsigned *permille, uint64_t *left_ms)
{
	uint64_t operations_left = 0;

	*permille = 0;
	*left_ms = UINT64_MAX;
	if (progress->bound_ms > 0) {
		*permille = proportion(progress->elapsed_ms, progress->bound_ms, 1000);
		*left_ms = progress->bound_ms > progress->elapsed_ms ? progress->bound_ms - progress->elapsed_ms : 0;
	}
	if (progress->bound_operations > 0) {
		unsigned done = proportion(progress->operations, progress->bound_operations, 1000);
		if (done > *permille)
			*permille = done;
		if (progress->bound_operations > progress->operations)
			operations_left = progress->bound_operations - progress->operations;
		if (progress->operations_per_second > 0) {
			uint64_t seconds = operations_left / progress->operations_per_second;
			if (seconds < *left_ms / 1000)
				*left_ms = seconds * 1000;
		}
	}
	return progress->bound_ms > 0 || progress->bound_operations > 0;
}

static void draw_progress(struct ui *ui, unsigned row, const struct stress_progress *progress)
{
	struct screen *screen = ui->screen;
	unsigned width = screen->columns > 50 ? screen->columns - 30 : 20, permille;
	uint64_t left_ms;
	char time[24];

	if (!progress_of(progress, &permille, &left_ms)) {
		screen_print(screen, row, LAYOUT_TEXT, STYLE_NORMAL, "No time limit: runs until Esc. %s so far.",
		             duration(time, sizeof(time), progress->elapsed_ms / 1000 * 1000));
		return;
	}
	bar(ui, row, LAYOUT_TEXT, width, permille, 1000);
	screen_print_right(screen, row, LAYOUT_TEXT + width + 7, STYLE_NORMAL, "%u %%", permille / 10);
	if (left_ms != UINT64_MAX)
		screen_print(screen, row, LAYOUT_TEXT + width + 9, STYLE_NORMAL, "%s left",
		             duration(time, sizeof(time), (left_ms + 999) / 1000 * 1000));
}

static void stress_frame(struct ui *ui, const char *keys)
{
	char parameter[64];

	text_format(parameter, sizeof(parameter), "%s, seed %ju", ui->options->engine, (uintmax_t)ui->options->seed);
	frame_begin(ui, "Stress", parameter, keys);
}

static void draw_running(struct stress *stress)
{
	struct ui *ui = stress->run.ui;
	const struct stress_progress *progress = &stress->progress;

	stress_frame(ui, stress->is_paused ? "Space go on   Esc stop (asks)" : "Esc stop (asks)   Space pause");
	unsigned row = LAYOUT_BODY_ROW, gap = frame_body_rows(ui) > 12;

	row += gap;
	draw_progress(ui, row, progress);
	row += 1 + gap;
	row = draw_figures(ui, row, progress, false);
	row += gap;
	memory_bar(ui, row, progress);
	row += 2 + gap;
	if (stress->is_paused && row < frame_body_end(ui))
		screen_text(ui->screen, row, LAYOUT_TEXT, ui->screen->columns, STYLE_BRIGHT, "PAUSED");
	screen_flush(ui->screen);
}

/* Space: the run stands still until Space again, or Esc and Yes. */
static void pause_run(struct stress *stress)
{
	stress->is_paused = true;
	while (stress->is_paused && !stress->is_stopping) {
		draw_running(stress);
		int key = wait_key(stress->run.ui);
		if (key == HOST_KEY_ESC)
			stress->is_stopping = run_ask_stop(&stress->run);
		else if (key == ' ' || key == HOST_KEY_ENTER)
			stress->is_paused = false;
	}
	stress->is_paused = false;
	stress->run.ui->host->alive(stress->run.ui->host, false);
}

static enum suite_control on_progress(void *ctx, const struct stress_progress *progress)
{
	struct stress *stress = ctx;
	enum suite_control control = SUITE_GO_ON;
	int key = poll_key(stress->run.ui);

	stress->progress = *progress;
	if (key == HOST_KEY_ESC || key == ' ') {
		control = SUITE_PAUSE; /* the time that the user took is not the run's */
		if (key == ' ')
			pause_run(stress);
		else
			stress->is_stopping = run_ask_stop(&stress->run);
		draw_running(stress);
	} else if (key == KEY_REDRAW || run_may_draw(&stress->run)) {
		draw_running(stress);
	}
	return stress->is_stopping ? SUITE_STOP : control;
}

/* ------------------------------------------------------------------------------------------------------------
 * The result
 * --------------------------------------------------------------------------------------------------------- */

static void draw_summary(struct ui *ui, unsigned row, const struct stress_progress *progress)
{
	char time[24], bytes[16];

	screen_print(ui->screen, row, LAYOUT_TEXT, STYLE_NORMAL,
	             "%'ju operations on engine %s in %s, seed %ju; %s verified", (uintmax_t)progress->operations,
	             ui->options->engine, duration(time, sizeof(time), progress->elapsed_ms),
	             (uintmax_t)ui->options->seed, text_bytes(bytes, sizeof(bytes), progress->verified_bytes));
}

static unsigned draw_failure(struct ui *ui, unsigned row, unsigned end, const struct stress_result *result)
{
	row += paragraph(ui, row, LAYOUT_TEXT, end > row ? end - row : 0, STYLE_BAD, result->failure);
	if (result->repeat[0] != '\0' && row < end) {
		screen_text(ui->screen, row, LAYOUT_TEXT, LAYOUT_FACT, STYLE_DIM, "Repeat");
		row += paragraph(ui, row, LAYOUT_FACT, end - row, STYLE_BRIGHT, result->repeat);
	}
	if (suite_stress_kept() == &engine_heap && row < end)
		screen_text(ui->screen, row++, LAYOUT_TEXT, ui->screen->columns, STYLE_NORMAL,
		            "The heap is kept as the failure left it: see Heap statistics.");
	return row;
}

static void draw_result(struct ui *ui, const struct stress_result *result)
{
	stress_frame(ui, "Enter back");
	unsigned row = LAYOUT_BODY_ROW, end = frame_body_end(ui), gap = frame_body_rows(ui) > 12;

	row += gap;
	row += run_outcome(ui, row, result->outcome);
	row += gap;
	if (result->outcome != SUITE_CANNOT_RUN)
		draw_summary(ui, row++, &result->last);
	if (result->outcome == SUITE_FAILED || result->outcome == SUITE_CANNOT_RUN) {
		row += gap;
		row = draw_failure(ui, row, end, result);
	}
	row += gap;
	if (result->outcome != SUITE_CANNOT_RUN && row + 5 <= end)
		draw_figures(ui, row, &result->last, true);
	screen_flush(ui->screen);
}

void stress_screen(struct ui *ui)
{
	/* Too large for a firmware's stack frame. */
	static struct stress stress;
	struct observer observer = { .ctx = &stress, .stress = on_progress };

	stress.progress = (struct stress_progress){ .engine = ui->options->engine,
		                                    .bound_ms = ui->options->seconds * (uint64_t)1000,
		                                    .bound_operations = ui->options->operations };
	stress.is_paused = stress.is_stopping = false;
	stress.result.failure[0] = stress.result.repeat[0] = '\0';
	/* From a fresh heap, so that the same seed does the same work at every run. */
	ui_heap_stop(ui);
	ui_heap_start(ui);
	run_begin(&stress.run, ui);
	draw_running(&stress);
	suite_stress(ui->host, ui->options, &observer, &stress.result);
	run_ended(ui, stress.result.outcome);

	int key;
	do {
		draw_result(ui, &stress.result);
		key = key_letter(wait_key(ui));
	} while (key != HOST_KEY_ENTER && key != HOST_KEY_ESC && key != 'q');
}
