/* SPDX-License-Identifier: MIT */
/*
 * Errands: what a started processor needs of the firmware, the boot processor does for it. Only that one may call boot services, so
 * the others leave a note here, one at a time. The boot processor looks for notes whenever it looks at the clock, and at every tick of
 * the firmware (EDK II: 10 ms). Ticks alone do not do: it works in the notification function of a timer event, and there is firmware
 * whose timer does not tick again before that returns (seen with OVMF 2022.11). Errands are done at TPL_NOTIFY, where pages can still be
 * allocated.
 */
#include "efi_host.h"
#include "port.h"
#include "x86.h"

/* A boot processor that does not come by for so long is not coming. */
#define PATIENCE_S 5

enum state { NO_NOTE, LEFT, TAKEN, DONE };

static struct {
	unsigned char busy; /* somebody's note is there */
	enum state state;
	void (*function)(void *argument);
	void *argument;
} note;

static EFI_EVENT timer;
static uint64_t patience_ticks;

static bool change_state(enum state from, enum state to)
{
	return __atomic_compare_exchange_n(&note.state, &from, to, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

void efi_errands_look(void)
{
	size_t level;

	if (__atomic_load_n(&note.state, __ATOMIC_RELAXED) != LEFT || kport_cpu() != 0 || !change_state(LEFT, TAKEN))
		return;
	level = efi_level_raise();
	note.function(note.argument);
	efi_level_restore(level);
	__atomic_store_n(&note.state, DONE, __ATOMIC_RELEASE);
}

static VOID EFIAPI tick(EFI_EVENT event, VOID *ctx)
{
	(void)event;
	(void)ctx;
	efi_errands_look();
}

static bool leave_note(void (*function)(void *argument), void *argument)
{
	uint64_t begin = read_tsc();

	note.function = function;
	note.argument = argument;
	__atomic_store_n(&note.state, LEFT, __ATOMIC_RELEASE);
	while (__atomic_load_n(&note.state, __ATOMIC_ACQUIRE) != DONE) {
		__builtin_ia32_pause();
		/* Taken back, unless it is being done just now. */
		if (read_tsc() - begin > patience_ticks && change_state(LEFT, NO_NOTE))
			return false;
	}
	return true;
}

bool efi_errand(void (*function)(void *argument), void *argument)
{
	size_t level;
	bool is_done;

	if (kport_cpu() == 0) {
		level = efi_level_raise();
		function(argument);
		efi_level_restore(level);
		return true;
	}
	while (__atomic_test_and_set(&note.busy, __ATOMIC_ACQUIRE))
		__builtin_ia32_pause();
	is_done = leave_note(function, argument);
	__atomic_clear(&note.busy, __ATOMIC_RELEASE);
	return is_done;
}

bool efi_errands_begin(const struct host *host)
{
	patience_ticks = host->ticks_per_second * PATIENCE_S;
	note.busy = 0; /* a processor that was stopped may have left it so */
	note.state = NO_NOTE;
	if (EFI_ERROR(efi_boot->CreateEvent(EVT_TIMER | EVT_NOTIFY_SIGNAL, TPL_NOTIFY, tick, NULL, &timer)))
		return false;
	/* Period 0: at every tick. */
	if (!EFI_ERROR(efi_boot->SetTimer(timer, TimerPeriodic, 0)))
		return true;
	efi_boot->CloseEvent(timer);
	return false;
}

void efi_errands_end(void)
{
	efi_boot->CloseEvent(timer);
}
