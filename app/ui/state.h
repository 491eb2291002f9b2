/* SPDX-License-Identifier: MIT */
/*
 * What the screens share: the host, the options, the shadow, and whether the menu's heap runs; and the screens
 * themselves. Private to app/ui.
 */
#ifndef UI_STATE_H
#define UI_STATE_H

#include "../suite/suite.h"
#include "screen.h"

struct ui {
	struct host *host;
	struct suite_options *options;
	struct screen *screen;
	const char *heap_problem; /* why engine_heap does not run, one sentence; NULL: it runs */
	uint64_t heap_budget;     /* what it may hold: options->heap_bytes, or less where the machine has less */
	enum suite_outcome worst; /* of all runs so far */
};

/* The menu's heap: what Home and the statistics show, and what a stress run of the heap works on. */
void ui_heap_start(struct ui *ui);
void ui_heap_stop(struct ui *ui);
/* NULL when it does not run. */
struct kheap *ui_heap(const struct ui *ui);

/* Each draws itself and returns when the user has left it. */
void selftest_screen(struct ui *ui);
void stress_screen(struct ui *ui);
void statistics_screen(struct ui *ui);
void memory_map_screen(struct ui *ui);
void settings_screen(struct ui *ui);
void bench_screen(struct ui *ui);
void scale_screen(struct ui *ui);
void replay_screen(struct ui *ui);

#endif
