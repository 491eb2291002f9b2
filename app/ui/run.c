/* SPDX-License-Identifier: MIT */
/*
 * What the self-test and the stress screen share. Must never draw more than ten times a second: on firmware each
 * character may go to a slow frame buffer and a serial line as well.
 */
#include "run.h"

#define DRAWS_PER_SECOND 10

void run_begin(struct run *run, struct ui *ui)
{
	uint64_t now = ui->host->ticks(ui->host);

	*run = (struct run){ .ui = ui, .began = now, .drawn = now };
	ui->host->alive(ui->host, false);
	ui->host->flush_keys(ui->host);
}

bool run_may_draw(struct run *run)
{
	struct host *host = run->ui->host;
	uint64_t now = host->ticks(host);

	if (now - run->drawn < host->ticks_per_second / DRAWS_PER_SECOND)
		return false;
	run->drawn = now;
	return true;
}

uint64_t run_milliseconds(const struct run *run)
{
	struct host *host = run->ui->host;
	uint64_t ticks = host->ticks(host) - run->began - run->held;

	return ticks / host->ticks_per_second * 1000 + ticks % host->ticks_per_second * 1000 / host->ticks_per_second;
}

bool run_ask_stop(struct run *run)
{
	struct host *host = run->ui->host;
	uint64_t before = host->ticks(host);
	bool stop = ask(run->ui, "Stop the run?", "The work waits until you answer.");

	run->held += host->ticks(host) - before;
	host->alive(host, false);
	return stop;
}

void run_ended(struct ui *ui, enum suite_outcome outcome)
{
	/* From the least to the worst; a failure stays one, whatever passes after it. */
	static const unsigned severity[] = {
		[SUITE_PASSED] = 0, [SUITE_STOPPED] = 1, [SUITE_CANNOT_RUN] = 2, [SUITE_FAILED] = 3
	};

	if (severity[outcome] > severity[ui->worst])
		ui->worst = outcome;
	/* A key that was meant for the run must not close its result. */
	ui->host->flush_keys(ui->host);
}

unsigned run_outcome(struct ui *ui, unsigned row, enum suite_outcome outcome)
{
	switch (outcome) {
	case SUITE_PASSED:
		return big_word(ui, row, STYLE_GOOD, "PASS");
	case SUITE_FAILED:
		return big_word(ui, row, STYLE_BAD, "FAIL");
	case SUITE_STOPPED:
		return big_word(ui, row, STYLE_BRIGHT, "STOPPED");
	default:
		return screen_text(ui->screen, row, LAYOUT_TEXT, ui->screen->columns, STYLE_BAD, "CANNOT RUN") > 0;
	}
}
