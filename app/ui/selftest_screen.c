/* SPDX-License-Identifier: MIT */
/*
 * The self-test: a running list of its cases, then the result with what failed. Told of each case by the suite; must
 * never draw inside a case.
 */
#include "../suite/text.h"
#include "run.h"

/* Cases that are remembered for the result's list. When they are used up, only failures still get one of the last. */
#define MAX_RECORDS 320
#define RESERVED_FOR_FAILURES 64
/* Failures shown while it runs; the result lists all. */
#define FAILURES_SHOWN 3

struct record {
	char group[20], name[120], detail[200];
	enum case_state state;
};

struct selftest {
	struct run run;
	struct record records[MAX_RECORDS];
	unsigned n_records, n_done, n_cases;
	unsigned n_states[CASE_SKIPPED + 1];
	char group[20], name[120]; /* of the case that runs */
	unsigned running_row;      /* where it stands */
	bool is_stopping;
	struct selftest_result result;
	struct pager pager;
	bool shows_all; /* in the result's list: passed cases too */
};

/* ------------------------------------------------------------------------------------------------------------
 * While it runs
 * --------------------------------------------------------------------------------------------------------- */

static void draw_case_state(struct ui *ui, unsigned row, const struct record *record)
{
	static const char *const words[] = { [CASE_PASSED] = "pass", [CASE_FAILED] = "FAIL", [CASE_SKIPPED] = "skip" };
	static const enum style styles[] = {
		[CASE_PASSED] = STYLE_GOOD, [CASE_FAILED] = STYLE_BAD, [CASE_SKIPPED] = STYLE_DIM
	};

	screen_text(ui->screen, row, LAYOUT_TEXT, 4, styles[record->state], words[record->state]);
	screen_text(ui->screen, row, LAYOUT_CASE_GROUP, LAYOUT_CASE_NAME - LAYOUT_CASE_GROUP - 1, STYLE_DIM,
	            record->group);
}

/* In one row: what is too long is cut. */
static void draw_case(struct ui *ui, unsigned row, const struct record *record)
{
	draw_case_state(ui, row, record);
	screen_text(ui->screen, row, LAYOUT_CASE_NAME, ui->screen->columns - LAYOUT_CASE_NAME - LAYOUT_MARGIN,
	            STYLE_NORMAL, record->name);
}

static void draw_counts(struct ui *ui, unsigned row, const struct selftest *test, uint64_t milliseconds)
{
	char time[24];
	unsigned column = LAYOUT_TEXT;

	column += screen_print(ui->screen, row, column, STYLE_NORMAL, "passed %u   ", test->n_states[CASE_PASSED]);
	column += screen_print(ui->screen, row, column, test->n_states[CASE_FAILED] > 0 ? STYLE_BAD : STYLE_NORMAL,
	                       "failed %u", test->n_states[CASE_FAILED]);
	screen_print(ui->screen, row, column, STYLE_NORMAL, "   skipped %u   %s", test->n_states[CASE_SKIPPED],
	             duration(time, sizeof(time), milliseconds));
}

/* Failures from `row` on, each with its detail, as far as `max_rows` goes; returns the rows used. */
static unsigned draw_failures(struct ui *ui, unsigned row, unsigned max_rows, const struct selftest *test)
{
	unsigned used = 0, n = 0;

	for (unsigned i = 0; i < test->n_records && n < FAILURES_SHOWN && used + 2 < max_rows; i++) {
		const struct record *record = &test->records[i];
		if (record->state != CASE_FAILED)
			continue;
		draw_case(ui, row + used++, record);
		used += paragraph(ui, row + used, LAYOUT_CASE_DETAIL, 2, STYLE_NORMAL, record->detail);
		n++;
	}
	if (test->n_states[CASE_FAILED] > n && used < max_rows)
		screen_print(ui->screen, row + used++, LAYOUT_TEXT, STYLE_BAD, "and %u more failed",
		             test->n_states[CASE_FAILED] - n);
	return used;
}

/*
 * The case that is about to run. This line is drawn for each case, however short: when the machine hangs, it names
 * the case.
 */
static void draw_running_case(const struct selftest *test)
{
	struct ui *ui = test->run.ui;
	struct record record = { .state = CASE_PASSED };

	if (test->running_row < frame_body_end(ui)) {
		screen_fill(ui->screen, test->running_row, 0, ui->screen->columns, STYLE_NORMAL, ' ');
		text_copy(record.group, sizeof(record.group), test->group);
		text_copy(record.name, sizeof(record.name), test->name);
		draw_case(ui, test->running_row, &record);
		screen_text(ui->screen, test->running_row, LAYOUT_TEXT, 4, STYLE_BRIGHT, " >> ");
	}
	screen_flush(ui->screen);
}

static void draw_running(struct selftest *test)
{
	struct ui *ui = test->run.ui;
	struct screen *screen = ui->screen;
	char parameter[40];

	text_format(parameter, sizeof(parameter), "seed %ju", (uintmax_t)ui->options->seed);
	frame_begin(ui, "Self-test", parameter, "Esc stop (asks)");

	unsigned row = LAYOUT_BODY_ROW, end = frame_body_end(ui), rows = frame_body_rows(ui);
	unsigned width = screen->columns > 40 ? screen->columns - 24 : 20;
	if (rows > 12)
		row++;
	bar(ui, row, LAYOUT_TEXT, width, test->n_done, test->n_cases);
	screen_print(screen, row++, LAYOUT_TEXT + width + 2, STYLE_NORMAL, "%u of %u", test->n_done, test->n_cases);
	if (rows > 12)
		row++;
	draw_counts(ui, row++, test, run_milliseconds(&test->run) / 1000 * 1000);
	if (rows > 12)
		row++;

	/* The failures stand still; the other cases scroll above the one that runs now. */
	if (test->n_states[CASE_FAILED] > 0) {
		row += draw_failures(ui, row, (end - row) / 2 + 1, test);
		row += rows > 12;
	}
	unsigned n = end > row + 1 ? end - row - 1 : 0, first = test->n_records > n ? test->n_records - n : 0;
	for (unsigned i = first; i < test->n_records; i++)
		draw_case(ui, row++, &test->records[i]);
	test->running_row = row < end ? row : end;
	draw_running_case(test);
}

static enum suite_control on_case_start(void *ctx, const struct case_report *report)
{
	struct selftest *test = ctx;

	text_copy(test->group, sizeof(test->group), report->group);
	text_copy(test->name, sizeof(test->name), report->name);
	test->n_cases = report->n_cases;
	if (run_may_draw(&test->run) || test->n_done == 0)
		draw_running(test);
	else
		draw_running_case(test);
	int key = poll_key(test->run.ui);
	if (key == HOST_KEY_ESC)
		test->is_stopping = run_ask_stop(&test->run);
	if (key == HOST_KEY_ESC || key == KEY_REDRAW)
		draw_running(test);
	return test->is_stopping ? SUITE_STOP : SUITE_GO_ON;
}

static void on_case_end(void *ctx, const struct case_report *report)
{
	struct selftest *test = ctx;

	test->n_done++;
	test->n_cases = report->n_cases;
	test->n_states[report->state]++;

	unsigned limit = report->state == CASE_FAILED ? MAX_RECORDS : MAX_RECORDS - RESERVED_FOR_FAILURES;
	if (test->n_records < limit) {
		struct record *record = &test->records[test->n_records++];
		text_copy(record->group, sizeof(record->group), report->group);
		text_copy(record->name, sizeof(record->name), report->name);
		text_copy(record->detail, sizeof(record->detail), report->detail);
		record->state = report->state;
	}
	test->run.ui->host->alive(test->run.ui->host, false);
}

/* ------------------------------------------------------------------------------------------------------------
 * The result
 * --------------------------------------------------------------------------------------------------------- */

/* The list goes through the records twice, failures first; in order and once when it shows all. */
static bool is_listed(const struct selftest *test, const struct record *record, unsigned pass)
{
	if (test->shows_all)
		return pass == 0;
	return record->state == (pass == 0 ? CASE_FAILED : CASE_SKIPPED);
}

/* Cells for a text that begins at `column`, at least one. */
static unsigned width_from(const struct ui *ui, unsigned column)
{
	unsigned columns = ui->screen->columns;
	return columns > column + LAYOUT_MARGIN ? columns - column - LAYOUT_MARGIN : 1;
}

/* The rows that a case takes in the list: its name, then its detail, each broken into lines. */
static size_t lines_of(const struct ui *ui, const struct record *record)
{
	return wrapped_lines(record->name, width_from(ui, LAYOUT_CASE_NAME)) +
	       wrapped_lines(record->detail, width_from(ui, LAYOUT_CASE_DETAIL));
}

static size_t count_lines(struct ui *ui, const struct selftest *test)
{
	size_t n = 0;

	for (unsigned i = 0; i < 2 * test->n_records; i++) {
		const struct record *record = &test->records[i % test->n_records];
		if (is_listed(test, record, i / test->n_records))
			n += lines_of(ui, record);
	}
	return n;
}

static void draw_record_line(struct ui *ui, unsigned row, const struct record *record, unsigned index)
{
	unsigned n_name = wrapped_lines(record->name, width_from(ui, LAYOUT_CASE_NAME));
	bool is_name = index < n_name;
	unsigned column = is_name ? LAYOUT_CASE_NAME : LAYOUT_CASE_DETAIL, length;
	const char *start;

	if (index == 0)
		draw_case_state(ui, row, record);
	if (wrapped_line(is_name ? record->name : record->detail, width_from(ui, column),
	                 is_name ? index : index - n_name, &start, &length))
		for (unsigned i = 0; i < length; i++)
			screen_cell(ui->screen, row, column + i, STYLE_NORMAL, start[i]);
}

static void draw_line(struct ui *ui, void *ctx, unsigned row, size_t index)
{
	const struct selftest *test = ctx;

	for (unsigned i = 0; i < 2 * test->n_records; i++) {
		const struct record *record = &test->records[i % test->n_records];
		size_t n = is_listed(test, record, i / test->n_records) ? lines_of(ui, record) : 0;
		if (index < n) {
			draw_record_line(ui, row, record, (unsigned)index);
			return;
		}
		index -= n;
	}
}

static void draw_result(struct ui *ui, struct selftest *test, uint64_t milliseconds)
{
	const struct selftest_result *result = &test->result;
	char keys[96], parameter[40];

	text_format(parameter, sizeof(parameter), "seed %ju", (uintmax_t)ui->options->seed);
	frame_begin(ui, "Self-test", parameter, "");
	unsigned row = LAYOUT_BODY_ROW, end = frame_body_end(ui);
	bool is_roomy = frame_body_rows(ui) > 12;

	row += is_roomy;
	row += run_outcome(ui, row, result->outcome);
	row += is_roomy;
	if (result->outcome == SUITE_CANNOT_RUN)
		row += paragraph(ui, row, LAYOUT_TEXT, 3, STYLE_NORMAL, result->first_failure);
	else
		draw_counts(ui, row++, test, milliseconds);
	row += is_roomy;

	unsigned rows = row < end ? end - row : 0;
	test->pager.n_lines = count_lines(ui, test);
	text_format(keys, sizeof(keys), "Enter back   %s%s", test->shows_all ? "A not passed" : "A all cases",
	            pager_keys(ui, test->pager.n_lines, rows));
	screen_text(ui->screen, ui->screen->rows - 1, LAYOUT_MARGIN, ui->screen->columns, STYLE_NORMAL, keys);
	pager_draw(ui, &test->pager, row, rows, draw_line, test);
	screen_flush(ui->screen);
}

static void show_result(struct ui *ui, struct selftest *test, uint64_t milliseconds)
{
	for (;;) {
		draw_result(ui, test, milliseconds);
		int key = key_letter(wait_key(ui));
		if (pager_key(&test->pager, key))
			continue;
		if (key == 'a') {
			test->shows_all = !test->shows_all;
			test->pager.top = 0;
		}
		if (key == HOST_KEY_ENTER || key == HOST_KEY_ESC || key == 'q')
			return;
	}
}

void selftest_screen(struct ui *ui)
{
	/* Too large for the firmware's stack. */
	static struct selftest test;

	test.n_records = test.n_done = test.n_cases = 0;
	for (unsigned i = 0; i <= CASE_SKIPPED; i++)
		test.n_states[i] = 0;
	test.is_stopping = false;
	test.pager = (struct pager){ .top = 0 };

	/* The cases make heaps of their own; the menu's must not take the memory that they need. */
	ui_heap_stop(ui);
	run_begin(&test.run, ui);
	struct observer observer = { .ctx = &test, .case_start = on_case_start, .case_end = on_case_end };
	suite_selftest(ui->host, ui->options, &observer, &test.result);
	uint64_t milliseconds = run_milliseconds(&test.run);
	ui_heap_start(ui);

	run_ended(ui, test.result.outcome);
	test.shows_all = test.result.n_failed == 0 && test.result.n_skipped == 0;
	show_result(ui, &test, milliseconds);
}
