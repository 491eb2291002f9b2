/* SPDX-License-Identifier: MIT */
/*
 * Replay: the recorded programs that came with this one, a line each, and in that line what it costs to do again what the
 * program did with its memory. Reads the folder once; keeps the figures while it is shown.
 */
#include "../suite/replay.h"
#include "../suite/text.h"
#include "run.h"

#define MAX_TRACES 32

struct line {
	struct host_file file;
	bool is_done;
	struct replay_result result;
};

struct replay_view {
	struct run run;
	struct line lines[MAX_TRACES];
	size_t n_lines, selected, top;
	size_t running; /* MAX_TRACES: none */
	bool is_stopping;
};

static bool is_trace(const char *name)
{
	size_t length = text_length(name), ending = text_length(".trace");

	return length > ending && text_compare_nocase(name + length - ending, ".trace") == 0;
}

/* The traces of the folder by name. */
static void find_traces(struct replay_view *view)
{
	static struct host_file files[2 * MAX_TRACES];
	struct host *host = view->run.ui->host;
	size_t n = host->list_files(host, host->trace_folder, files, 2 * MAX_TRACES);

	view->n_lines = 0;
	for (size_t i = 0; i < n && view->n_lines < MAX_TRACES; i++) {
		size_t at = view->n_lines;

		if (!is_trace(files[i].name))
			continue;
		for (; at > 0 && text_compare_nocase(files[i].name, view->lines[at - 1].file.name) < 0; at--)
			view->lines[at] = view->lines[at - 1];
		view->lines[at] = (struct line){ .file = files[i] };
		view->n_lines++;
	}
}

static void draw_figures(struct ui *ui, unsigned row, enum style style, const struct replay_result *result)
{
	struct screen *screen = ui->screen;
	uint64_t permille = replay_footprint_permille(result);
	uint64_t tenths = replay_picoseconds(ui->host, result->ticks, result->n_operations) / 100;
	char text[16];

	screen_print_right(screen, row, LAYOUT_TRACE_OBJECTS_END, style, "%'ju", (uintmax_t)result->counts.n_objects);
	screen_print_right(screen, row, LAYOUT_TRACE_LIVE_END, style, "%s",
	                   text_bytes(text, sizeof(text), result->peak_rounded_bytes));
	if (result->outcome != SUITE_PASSED)
		return;
	if (permille > 0) {
		screen_print_right(screen, row, LAYOUT_TRACE_FOOTPRINT_END, style, "%s",
		                   text_bytes(text, sizeof(text), result->peak_footprint_bytes));
		screen_print_right(screen, row, LAYOUT_TRACE_RATIO_END, style, "%ju.%03ju",
		                   (uintmax_t)(permille / 1000), (uintmax_t)(permille % 1000));
	}
	screen_print_right(screen, row, LAYOUT_TRACE_TIME_END, style, "%'ju.%ju", (uintmax_t)(tenths / 10),
	                   (uintmax_t)(tenths % 10));
}

static void draw_line(struct ui *ui, unsigned row, const struct replay_view *view, size_t index)
{
	static const char *const words[] = {
		[SUITE_PASSED] = "PASS", [SUITE_FAILED] = "FAIL", [SUITE_STOPPED] = "STOP", [SUITE_CANNOT_RUN] = "-"
	};
	const struct line *line = &view->lines[index];
	enum style style = index == view->selected ? STYLE_SELECTED : STYLE_NORMAL, verdict = style;
	char name[sizeof(line->file.name)];

	text_copy(name, sizeof(name), line->file.name);
	name[text_length(name) - text_length(".trace")] = '\0';
	screen_fill(ui->screen, row, LAYOUT_TEXT - 1, ui->screen->columns - 2 * LAYOUT_MARGIN, style, ' ');
	screen_cell(ui->screen, row, LAYOUT_TEXT, style, index == view->selected ? '>' : ' ');
	screen_text(ui->screen, row, LAYOUT_SETTING_NAME, LAYOUT_TRACE_NAME, style, name);
	if (index == view->running)
		screen_text(ui->screen, row, LAYOUT_TRACE_VERDICT, 8, style, "runs...");
	if (!line->is_done || index == view->running)
		return;
	draw_figures(ui, row, style, &line->result);
	if (style == STYLE_NORMAL && line->result.outcome == SUITE_PASSED)
		verdict = STYLE_GOOD;
	if (style == STYLE_NORMAL && line->result.outcome == SUITE_FAILED)
		verdict = STYLE_BAD;
	screen_text(ui->screen, row, LAYOUT_TRACE_VERDICT, 8, verdict, words[line->result.outcome]);
}

static void draw_heading(struct ui *ui, unsigned row)
{
	struct screen *screen = ui->screen;

	screen_text(screen, row, LAYOUT_SETTING_NAME, LAYOUT_TRACE_NAME, STYLE_DIM, "Program");
	screen_print_right(screen, row, LAYOUT_TRACE_OBJECTS_END, STYLE_DIM, "objects");
	screen_print_right(screen, row, LAYOUT_TRACE_LIVE_END, STYLE_DIM, "peak live");
	screen_print_right(screen, row, LAYOUT_TRACE_FOOTPRINT_END, STYLE_DIM, "footprint");
	screen_print_right(screen, row, LAYOUT_TRACE_RATIO_END, STYLE_DIM, "ratio");
	screen_print_right(screen, row, LAYOUT_TRACE_TIME_END, STYLE_DIM, "ns/op");
}

/* What is to be said below the list: of the chosen trace, or that there is none. */
static void draw_sentence(struct ui *ui, const struct replay_view *view, unsigned row, unsigned rows)
{
	char text[240];

	if (view->n_lines == 0) {
		text_format(text, sizeof(text),
		            "There are no traces in %s. `kmalloc replay FILE` takes one from anywhere.",
		            ui->host->trace_folder);
		paragraph(ui, row, LAYOUT_TEXT, rows, STYLE_BAD, text);
	} else if (view->lines[view->selected].is_done && view->lines[view->selected].result.outcome != SUITE_PASSED) {
		paragraph(ui, row, LAYOUT_TEXT, rows, STYLE_BAD, view->lines[view->selected].result.failure);
	} else {
		paragraph(ui, row, LAYOUT_TEXT, rows, STYLE_DIM,
		          "What recorded programs did with their memory is done again, every byte verified; then once "
		          "more for the time. The ratio is footprint to peak live.");
	}
}

static void draw(struct replay_view *view)
{
	struct ui *ui = view->run.ui;
	bool is_running = view->running < MAX_TRACES;
	unsigned row = LAYOUT_BODY_ROW, end, rows;

	frame_begin(ui, "Replay", ui->options->engine,
	            is_running           ? "Esc stop (asks)"
	            : view->n_lines == 0 ? "Esc back"
	                                 : "Up/Down choose   Enter replay   A all   Esc back");
	end = frame_body_end(ui);
	rows = end > row + 4 ? end - row - 4 : 0;
	if (view->selected < view->top)
		view->top = view->selected;
	if (rows > 0 && view->selected >= view->top + rows)
		view->top = view->selected - rows + 1;
	if (view->n_lines > 0 && rows > 0)
		draw_heading(ui, row);
	for (unsigned i = 0; i < rows && view->top + i < view->n_lines; i++)
		draw_line(ui, row + 1 + i, view, view->top + i);
	if (rows > 0)
		draw_sentence(ui, view, view->n_lines == 0 ? row : end - 2, 2);
	screen_flush(ui->screen);
}

static enum suite_control on_poll(void *ctx)
{
	struct replay_view *view = ctx;
	int key = poll_key(view->run.ui);

	if (key == HOST_KEY_ESC)
		view->is_stopping = run_ask_stop(&view->run);
	if (key == HOST_KEY_ESC || key == KEY_REDRAW)
		draw(view);
	return view->is_stopping ? SUITE_STOP : SUITE_GO_ON;
}

static void replay_one(struct replay_view *view, size_t index)
{
	struct ui *ui = view->run.ui;
	struct suite_options options = *ui->options;
	struct line *line = &view->lines[index];
	char path[128];

	text_format(path, sizeof(path), "%s/%s", ui->host->trace_folder, line->file.name);
	options.file = path;
	view->selected = view->running = index;
	run_begin(&view->run, ui);
	draw(view);
	suite_replay_file(ui->host, &options, on_poll, view, &line->result);
	line->is_done = true;
	view->running = MAX_TRACES;
	run_ended(ui, line->result.outcome);
}

/* Those from `first` to `last`, until the user stops. The replay starts an engine of its own. */
static void replay_lines(struct replay_view *view, size_t first, size_t last)
{
	view->is_stopping = false;
	ui_heap_stop(view->run.ui);
	for (size_t i = first; i <= last && i < view->n_lines && !view->is_stopping; i++)
		replay_one(view, i);
	ui_heap_start(view->run.ui);
}

void replay_screen(struct ui *ui)
{
	/* Too large for a firmware's stack frame. */
	static struct replay_view view;

	view.run = (struct run){ .ui = ui };
	view.selected = view.top = 0;
	view.running = MAX_TRACES;
	find_traces(&view);
	for (;;) {
		draw(&view);
		switch (key_letter(wait_key(ui))) {
		case HOST_KEY_UP:
		case 'k':
			view.selected -= view.selected > 0;
			break;
		case HOST_KEY_DOWN:
		case 'j':
			view.selected += view.selected + 1 < view.n_lines;
			break;
		case HOST_KEY_ENTER:
			replay_lines(&view, view.selected, view.selected);
			break;
		case 'a':
			replay_lines(&view, 0, MAX_TRACES);
			break;
		case HOST_KEY_ESC:
		case 'q':
			return;
		default:
			break;
		}
	}
}
