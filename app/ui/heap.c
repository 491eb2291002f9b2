/* SPDX-License-Identifier: MIT */
/*
 * The menu's heap: the `heap` engine, kept started while the menu is open. Starts and stops it, and nothing else; a
 * machine that has no memory for it still has a menu.
 */
#include "state.h"

void ui_heap_start(struct ui *ui)
{
	uint64_t limit = ui->host->heap_limit(ui->host);
	uint64_t wish = ui->options->heap_bytes;
	const char *why = "There is not enough memory.";

	ui->heap_budget = wish < limit ? wish : limit;
	/* To the heap a budget of 0 is none. */
	bool runs = engine_heap.is_started ||
	            (ui->heap_budget > 0 && engine_heap.start(&engine_heap, ui->host, (size_t)ui->heap_budget, &why));
	ui->heap_problem = runs ? NULL : why;
}

void ui_heap_stop(struct ui *ui)
{
	/* What a failed run has kept lives in the heap, so it goes first. */
	suite_stress_release();
	if (engine_heap.is_started)
		engine_heap.stop(&engine_heap);
	ui->heap_problem = "It has been stopped.";
}

struct kheap *ui_heap(const struct ui *ui)
{
	return ui->heap_problem == NULL && engine_heap.is_started ? engine_heap.ctx : NULL;
}
