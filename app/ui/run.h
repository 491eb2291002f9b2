/* SPDX-License-Identifier: MIT */
/*
 * What the self-test and the stress screen share: the pace of drawing, the question at Esc, and how an outcome is
 * said. Private to app/ui.
 */
#ifndef UI_RUN_H
#define UI_RUN_H

#include "widgets.h"

struct run {
	struct ui *ui;
	uint64_t began, drawn; /* ticks */
	uint64_t held;         /* ticks that questions and pauses took */
};

void run_begin(struct run *run, struct ui *ui);
/* True at most ten times a second: draw now. */
bool run_may_draw(struct run *run);
/* Since it began, without pauses. */
uint64_t run_milliseconds(const struct run *run);
/* "Stop the run?" Keeps the clock of `run`. */
bool run_ask_stop(struct run *run);
/* Remember the outcome for the program's exit status. */
void run_ended(struct ui *ui, enum suite_outcome outcome);
/* PASS, FAIL or STOPPED across the screen, or "CANNOT RUN"; returns the rows used. */
unsigned run_outcome(struct ui *ui, unsigned row, enum suite_outcome outcome);

#endif
