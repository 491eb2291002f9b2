/* SPDX-License-Identifier: MIT */
/*
 * What the screens of measurements share: the run with its progress and the question at Esc, and a line of figures for each row as
 * soon as it is measured. Private to app/ui.
 */
#ifndef UI_MEASURE_VIEW_H
#define UI_MEASURE_VIEW_H

#include "../suite/measure.h"
#include "run.h"

struct measure_view {
	/* What differs; the screen's own view begins with this one and is what the functions are given. */
	const char *title;
	const char *note; /* a sentence that is said when all is measured */
	const char *keys; /* those of the screen's own, once the run is over */
	const unsigned *n_rows;
	/* Measure; tells the outcome, and in view->failure why it could not run. */
	enum suite_outcome (*measure)(struct measure_view *view, const struct suite_options *options,
	                              struct measure_observer *observer);
	void (*draw_heading)(struct ui *ui, void *view, unsigned row);
	void (*draw_line)(struct ui *ui, void *view, unsigned row, size_t index);
	const char *failure;

	/* The rest is kept by measure_view_run(). */
	struct run run;
	struct pager pager;
	enum suite_outcome outcome;
	unsigned permille;
	const char *what;
	bool is_over, is_stopping;
};

/* The whole measurement, shown as it goes on. */
void measure_view_run(struct measure_view *view, struct ui *ui);
/* Show what was measured until a key comes that is for the screen. */
int measure_view_wait(struct measure_view *view);

#endif
