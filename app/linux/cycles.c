/* SPDX-License-Identifier: MIT */
/*
 * The time stamp counter as the measuring commands' clock. Its rate is
 * measured, because the kernel does not tell it. Where there is no such counter
 * the host simply has none.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "../suite/text.h"
#include "linux_host.h"

#if defined(__x86_64__)

#define CALIBRATION_NS 10000000
#define NANOSECONDS_PER_SECOND UINT64_C(1000000000)

static uint64_t cycles(struct host *host)
{
	uint32_t low, high;

	(void)host;
	/* What comes before is done, and what comes after has not begun. */
	__asm__ volatile("lfence; rdtsc; lfence" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}

/* The counter runs at one rate, whatever the processor does: "constant_tsc
 * nonstop_tsc" among the flags of the first one. */
static bool is_steady(void)
{
	FILE *file = fopen("/proc/cpuinfo", "re");
	bool is_constant = false, is_nonstop = false;
	char line[8192];

	if (file == NULL)
		return false;
	while (fgets(line, sizeof(line), file) != NULL && line[0] != '\n') {
		is_constant = is_constant || strstr(line, " constant_tsc") != NULL;
		is_nonstop = is_nonstop || strstr(line, " nonstop_tsc") != NULL;
	}
	fclose(file);
	return is_constant && is_nonstop;
}

void linux_cycles_begin(struct host *host)
{
	uint64_t begin = host->ticks(host), first = cycles(host), ns, passed;

	do {
		ns = host->ticks(host) - begin;
		passed = cycles(host) - first;
	} while (ns < CALIBRATION_NS);
	host->cycles = cycles;
	host->cycles_per_second = passed * NANOSECONDS_PER_SECOND / ns;
	host->is_rate_steady = is_steady();
	text_format(host->calibration, sizeof(host->calibration), "measured against CLOCK_MONOTONIC for %u ms",
	            CALIBRATION_NS / 1000000);
}

#else

void linux_cycles_begin(struct host *host)
{
	host->cycles = NULL;
}

#endif
