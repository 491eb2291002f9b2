/* SPDX-License-Identifier: MIT */
/*
 * Restart and power off. ResetSystem is not supposed to return, but some firmware cannot switch the power off and
 * does; the caller then says so.
 */
#include "efi_host.h"

static void restart(struct host *host)
{
	(void)host;
	efi_system->RuntimeServices->ResetSystem(EfiResetCold, EFI_SUCCESS, 0, NULL);
}

static void power_off(struct host *host)
{
	(void)host;
	efi_system->RuntimeServices->ResetSystem(EfiResetShutdown, EFI_SUCCESS, 0, NULL);
}

void efi_power_begin(struct host *host)
{
	host->restart = restart;
	host->power_off = power_off;
}
