/* SPDX-License-Identifier: MIT */
/*
 * The firmware's watchdog resets the machine. While work goes on it is kept wound up, so that a hang in an
 * unattended run ends in a restart; while a person reads it is off.
 */
#include "efi_host.h"

/* What the boot manager sets before it starts a program. */
#define TIMEOUT_S 300
/* Setting it is a firmware call with a timer behind it; this is often enough. */
#define REARM_S 5
/* Codes up to 0xffff are the firmware's. Shown in its log when the watchdog fires. */
#define WATCHDOG_CODE 0x10000

static bool was_started_by_shell;
static bool is_armed;
static uint64_t armed_at;

static void disable(void)
{
	efi_boot->SetWatchdogTimer(0, WATCHDOG_CODE, 0, NULL);
	is_armed = false;
}

static void alive(struct host *host, bool waiting)
{
	uint64_t now = host->ticks(host);

	if (waiting) {
		if (is_armed)
			disable();
	} else if (!is_armed || now - armed_at >= REARM_S * host->ticks_per_second) {
		efi_boot->SetWatchdogTimer(TIMEOUT_S, WATCHDOG_CODE, 0, NULL);
		is_armed = true;
		armed_at = now;
	}
}

void efi_watchdog_begin(struct host *host, bool from_shell)
{
	was_started_by_shell = from_shell;
	host->alive = alive;
	is_armed = false; /* or not with our time and code */
	alive(host, false);
}

void efi_watchdog_end(void)
{
	/* The Shell runs its programs without; the boot manager expects to find it as it set it. */
	if (was_started_by_shell)
		disable();
	else
		efi_boot->SetWatchdogTimer(TIMEOUT_S, 0, 0, NULL);
}
