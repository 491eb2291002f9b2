/* SPDX-License-Identifier: MIT */
/*
 * Interruptions on purpose: a timer event whose notification function the firmware calls at every tick (EDK II: 10 ms) in the middle
 * of whatever runs on the boot processor, at TPL_NOTIFY, the highest level that a program's may have.
 */
#include "efi_host.h"

static EFI_EVENT timer;
static void (*interruption)(void *ctx);

static VOID EFIAPI notify(EFI_EVENT event, VOID *ctx)
{
	(void)event;
	interruption(ctx);
}

static bool interrupts_begin(struct host *host, void (*function)(void *ctx), void *ctx)
{
	(void)host;
	interruption = function;
	if (EFI_ERROR(efi_boot->CreateEvent(EVT_TIMER | EVT_NOTIFY_SIGNAL, TPL_NOTIFY, notify, ctx, &timer)))
		return false;
	/* Period 0: at every tick. */
	if (!EFI_ERROR(efi_boot->SetTimer(timer, TimerPeriodic, 0)))
		return true;
	efi_boot->CloseEvent(timer);
	return false;
}

static void interrupts_end(struct host *host)
{
	(void)host;
	efi_boot->CloseEvent(timer);
}

void efi_interrupts_begin(struct host *host)
{
	host->interrupts_begin = interrupts_begin;
	host->interrupts_end = interrupts_end;
}
