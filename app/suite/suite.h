/* SPDX-License-Identifier: MIT */
/*
 * The suite: what can be run, with which options, and how it tells of its progress. Nothing here draws: a `struct
 * observer` is told, and either prints lines (suite_print_observer) or draws a screen (app/ui).
 */
#ifndef SUITE_SUITE_H
#define SUITE_SUITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "allocator.h"
#include "host.h"

enum suite_command {
	SUITE_MENU,
	SUITE_SELFTEST,
	SUITE_STRESS,
	SUITE_BENCH,
	SUITE_LATENCY,
	SUITE_FRAG,
	SUITE_SCALE,
	SUITE_INFO,
	SUITE_HELP,
	SUITE_VERSION,
	SUITE_REPLAY
};
enum suite_format { SUITE_TEXT, SUITE_TAP, SUITE_JSON };

struct suite_options {
	enum suite_command command;
	enum suite_format format;
	const char *engine;  /* "heap" */
	uint64_t seed;       /* 42 */
	uint32_t seconds;    /* 60: bound of a stress run; 0: none */
	uint64_t operations; /* 0: none; the run ends at whichever bound comes first */
	uint64_t heap_bytes; /* 256 MiB, cut to what host->heap_limit allows */
	const char *group;   /* self-test: only groups whose name starts so; NULL: all */
	const char *file;    /* replay: the trace; NULL: none was given */
};

void suite_default_options(struct suite_options *options);

/*
 * argv without the program's own name. Words are `selftest`, `stress`, `info`, `menu`, `help`, `version`; options
 * begin with one dash (two are taken too), names are not case-sensitive: -seconds N, -operations N, -seed N, -heap
 * SIZE[K|M|G], -engine NAME,
 * -format text|tap, -group NAME, -? -h -help. False: one line of what is wrong in why[].
 */
bool suite_parse(int argc, char *const argv[], struct suite_options *options, char *why, size_t why_size);
/* One line. */
extern const char suite_usage[];

/*
 * How a run ended. The host turns it into an exit status: Linux 0, 1, 2, 3; firmware EFI_SUCCESS, EFI_CRC_ERROR,
 * EFI_ABORTED, EFI_OUT_OF_RESOURCES / EFI_UNSUPPORTED.
 */
enum suite_outcome { SUITE_PASSED, SUITE_FAILED, SUITE_STOPPED, SUITE_CANNOT_RUN };

/* "PASS", "FAIL", "STOP", "CANNOT RUN". */
const char *suite_verdict(enum suite_outcome outcome);

enum suite_control { SUITE_GO_ON, SUITE_PAUSE, SUITE_STOP };

enum case_state { CASE_PASSED, CASE_FAILED, CASE_SKIPPED };

struct case_report {
	const char *group;
	/* What the case proves, as a statement: "freeing 7 neighbours in any order leaves one free block". */
	const char *name;
	/* Of a failure: what was expected and seen, where; of a skip: why; else "" or a figure worth showing. */
	const char *detail;
	enum case_state state;
	unsigned index; /* 1.. */
	unsigned n_cases;
};

struct stress_progress {
	const char *engine;
	uint64_t seed;
	uint64_t operations, operations_per_second; /* the rate of the last interval */
	uint64_t elapsed_ms, bound_ms;              /* bound 0: bounded by operations */
	uint64_t bound_operations;
	uint64_t live_bytes, live_objects, peak_bytes; /* asked for, by the suite's own count */
	uint64_t footprint_bytes, capacity_bytes; /* pages held, and the most they may be; 0: the engine cannot say */
	uint64_t verified_bytes;
	uint64_t refused; /* allocations that gave NULL because memory was full */
	uint64_t checks;  /* heap checks made */
	uint64_t checked_ms_ago;
	unsigned fill_percent; /* the fill level that the run is steering to */
	uint64_t failures;
};

struct stress_result {
	enum suite_outcome outcome;
	struct stress_progress last;
	char failure[200]; /* what was wrong: operation, block, expected and seen */
	char repeat[120];  /* the command that repeats it */
};

struct observer {
	void *ctx;
	/* Before a case starts, so that a hang is attributable. Returning SUITE_STOP ends the run after this. */
	enum suite_control (*case_start)(void *ctx, const struct case_report *report);
	void (*case_end)(void *ctx, const struct case_report *report);
	/*
	 * At most ten times a second, never inside timed code. SUITE_PAUSE: it blocks inside until the user goes
	 * on; the time it took does not count.
	 */
	enum suite_control (*stress)(void *ctx, const struct stress_progress *progress);
};

/*
 * An observer that writes lines through host->write: text or TAP 13, progress every ten seconds. Polls for Esc
 * (asks once more before it stops). One at a time.
 */
struct observer *suite_print_observer(struct host *host, const struct suite_options *options);

struct selftest_result {
	enum suite_outcome outcome;
	unsigned n_passed, n_failed, n_skipped;
	unsigned n_starved;      /* of those skipped: for want of memory */
	char first_failure[240]; /* "group: name: detail" */
};

void suite_selftest(struct host *host, const struct suite_options *options, struct observer *observer,
                    struct selftest_result *result);
/*
 * Stress one engine. An engine that is started already is used as it is and not stopped (the menu keeps engine_heap
 * started, so that its statistics can be looked at after a run); otherwise it is started with heap_bytes and
 * stopped. On failure the heap is kept as it was, for inspection, until suite_stress_release(); otherwise
 * everything has been given back when it returns.
 */
void suite_stress(struct host *host, const struct suite_options *options, struct observer *observer,
                  struct stress_result *result);
/* The engine as the failed run left it, or NULL. */
struct allocator *suite_stress_kept(void);
void suite_stress_release(void);

/*
 * Has the user asked to stop? Polls for Esc, and asks once more, through host->write; with SUITE_JSON it asks nothing, so that
 * what is printed stays JSON.
 */
enum suite_control suite_poll_stop(struct host *host, enum suite_format format);

/* `selftest`, `stress`, `info`, `help`, `version` as sequential text; everything but the menu. */
enum suite_outcome suite_run(struct host *host, const struct suite_options *options);

#endif
