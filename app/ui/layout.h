/* SPDX-License-Identifier: MIT */
/*
 * Where things stand on a screen: every row and column that the screens use by number is here, and nowhere else. Rows
 * and columns are those of the frame, which screen.c places on the terminal. Every screen is, from the top: a title
 * line, a rule, the body, a rule, and a line with the keys that do something now.
 */
#ifndef UI_LAYOUT_H
#define UI_LAYOUT_H

enum layout {
	/* The shadow is static memory: more of a terminal than this stays blank. */
	LAYOUT_MAX_COLUMNS = 240,
	LAYOUT_MAX_ROWS = 80,
	/* Longer lines are hard to follow: on a wider terminal the frame is centred. */
	LAYOUT_FRAME_COLUMNS = 100,

	LAYOUT_TITLE_ROW = 0,
	LAYOUT_TOP_RULE_ROW = 1,
	LAYOUT_BODY_ROW = 2,
	LAYOUT_ROWS_BELOW_BODY = 2,
	LAYOUT_MARGIN = 1, /* of the title and key lines */
	LAYOUT_TEXT = 2,   /* where the body's text begins */

	/* "Label      value": the facts of Home. */
	LAYOUT_FACT = 14,

	/* Lists to choose from: mark, key, name, note. */
	LAYOUT_ITEM_KEY = 4,
	LAYOUT_ITEM_NAME = 7,
	LAYOUT_ITEM_NOTE = 25,

	/* The figures of a run: label, right-aligned value, two notes. */
	LAYOUT_FIGURE_END = 30,
	LAYOUT_FIGURE_NOTE = 33,
	LAYOUT_FIGURE_NOTE_2 = 57,

	/* Cases of the self-test: state, group, name; below the name, what is to be said of it. */
	LAYOUT_CASE_GROUP = 7,
	LAYOUT_CASE_NAME = 18,
	LAYOUT_CASE_DETAIL = 20,

	/* Settings: name, value, note. */
	LAYOUT_SETTING_NAME = 4,
	LAYOUT_SETTING_VALUE = 15,
	LAYOUT_SETTING_NOTE = 39,

	/* Statistics: exact figure, the same in units. */
	LAYOUT_EXACT_END = 48,
	LAYOUT_UNITS_END = 62,

	/* Memory map: first and last byte, size, type, marks. */
	LAYOUT_MAP_LAST = 21,
	LAYOUT_MAP_SIZE_END = 50,
	LAYOUT_MAP_TYPE = 52,
	LAYOUT_MAP_MARKS = 72,
	/* Totals by type, on the same grid. */
	LAYOUT_MAP_COUNT_END = 37,

	/* The bench: workload, what it does, a column for each engine. */
	LAYOUT_BENCH_WHAT = 9,
	LAYOUT_BENCH_FIRST_END = 43,
	LAYOUT_BENCH_COLUMN = 9,

	/* Several processors: engine, how many, and two figures for each pattern. */
	LAYOUT_SCALE_ENGINE = 7, /* its width */
	LAYOUT_SCALE_CPUS_END = 12,
	LAYOUT_SCALE_FIRST_END = 23,
	LAYOUT_SCALE_RATIO = 5,
	LAYOUT_SCALE_COLUMN = 17,

	/* Traces: name, figures, verdict. */
	LAYOUT_TRACE_NAME = 15,
	LAYOUT_TRACE_OBJECTS_END = 30,
	LAYOUT_TRACE_LIVE_END = 41,
	LAYOUT_TRACE_FOOTPRINT_END = 52,
	LAYOUT_TRACE_RATIO_END = 61,
	LAYOUT_TRACE_TIME_END = 70,
	LAYOUT_TRACE_VERDICT = 72,

	LAYOUT_BIG_ROWS = 5,
	LAYOUT_BOX_COLUMNS = 56,
	LAYOUT_BOX_ROWS = 6,
};

#endif
