/* SPDX-License-Identifier: MIT */
/*
 * Several processors at once, through the firmware's MP services.
 *
 * The others are started with StartupAllAPs in blocking mode, because the specification allows the non-blocking one only until the
 * firmware is ready to boot, which is before any program runs. While it blocks, the firmware still ticks: so the boot processor does
 * its share in the notification function of a timer event, at TPL_CALLBACK, once all others are there. A firmware that does not tick
 * while it waits costs two seconds: then the others go home, and nothing has run.
 *
 * The started ones call no service but WhoAmI, and work on stacks of ours (port.h says why). Processors that are disabled are not
 * started, those that failed the firmware's own test return at once. Nothing of all this stays: no event, no page, no processor.
 */
#include "efi_host.h"
#include "mp_services.h"
#include "port.h"
#include "x86.h"

#define STACK_BYTES ((size_t)1 << EFI_STACK_SHIFT)
/* Numbers of the firmware that are looked at; those above are left alone. */
#define MAX_NUMBERS 1024
/* What a function may take (HOST_PARALLEL_SECONDS), three times; then the firmware stops the processors wherever they are. */
#define LIMIT_US ((UINTN)3 * HOST_PARALLEL_SECONDS * 1000000)
#define MUSTER_S 2

enum signal { WAIT, GO, GO_HOME };

struct gang {
	void (*function)(void *ctx, unsigned index);
	void *ctx;
	uint64_t muster_ticks;
	unsigned n;       /* processors wanted, this one among them */
	unsigned n_ready; /* others that have come */
	enum signal signal;
};

static struct mp_services *mp;
/* By the firmware's number: which one it is for us; 0: the boot processor, and all that are not used. */
static uint8_t index_of[MAX_NUMBERS];

static void decide(struct gang *gang, enum signal signal)
{
	enum signal undecided = WAIT;

	__atomic_compare_exchange_n(&gang->signal, &undecided, signal, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

/* ------------------------------------------------------------------------------------------------------------
 * On the started processors
 * --------------------------------------------------------------------------------------------------------- */

static void work(struct gang *gang, unsigned index)
{
	uint64_t begin = read_tsc();
	enum signal signal;

	__atomic_add_fetch(&gang->n_ready, 1, __ATOMIC_ACQ_REL);
	while ((signal = __atomic_load_n(&gang->signal, __ATOMIC_ACQUIRE)) == WAIT) {
		__builtin_ia32_pause();
		if (read_tsc() - begin > gang->muster_ticks)
			decide(gang, GO_HOME);
	}
	if (signal == GO)
		gang->function(gang->ctx, index);
}

/* work(gang, index) on another stack, then back to this one. */
static void work_on_stack(uintptr_t top, struct gang *gang, unsigned index)
{
	void (*function)(struct gang *, unsigned) = work;

	__asm__ volatile("mov %%rsp, %%rbx\n\t"
	                 "mov %%rcx, %%rsp\n\t"
	                 "call *%%rax\n\t"
	                 "mov %%rbx, %%rsp"
	                 : "+a"(function), "+c"(top), "+D"(gang), "+S"(index)
	                 :
	                 : "rbx", "rdx", "r8", "r9", "r10", "r11", "memory", "cc");
}

static VOID EFIAPI procedure(VOID *argument)
{
	struct gang *gang = argument;
	UINTN number;
	unsigned index;

	if (EFI_ERROR(mp->who_am_i(mp, &number)) || number >= MAX_NUMBERS)
		return;
	index = index_of[number];
	if (index != 0 && index < gang->n)
		work_on_stack(efi_stacks.base + index * STACK_BYTES, gang, index);
}

/* ------------------------------------------------------------------------------------------------------------
 * On the boot processor
 * --------------------------------------------------------------------------------------------------------- */

static VOID EFIAPI do_own_share(EFI_EVENT event, VOID *argument)
{
	struct gang *gang = argument;

	if (__atomic_load_n(&gang->n_ready, __ATOMIC_ACQUIRE) < gang->n - 1 ||
	    __atomic_load_n(&gang->signal, __ATOMIC_ACQUIRE) != WAIT)
		return;
	decide(gang, GO);
	if (__atomic_load_n(&gang->signal, __ATOMIC_ACQUIRE) != GO)
		return;
	efi_boot->SetTimer(event, TimerCancel, 0);
	gang->function(gang->ctx, 0);
}

static EFI_STATUS start(struct gang *gang)
{
	EFI_STATUS status;
	EFI_EVENT event;

	status = efi_boot->CreateEvent(EVT_TIMER | EVT_NOTIFY_SIGNAL, TPL_CALLBACK, do_own_share, gang, &event);
	if (EFI_ERROR(status))
		return status;
	/* Period 0: at every tick. */
	status = efi_boot->SetTimer(event, TimerPeriodic, 0);
	if (!EFI_ERROR(status))
		status = mp->startup_all_aps(mp, procedure, FALSE, NULL, LIMIT_US, gang, NULL);
	efi_boot->CloseEvent(event);
	return status;
}

static bool run_parallel(struct host *host, unsigned n, void (*function)(void *ctx, unsigned index), void *ctx)
{
	struct gang gang = {
		.function = function, .ctx = ctx, .muster_ticks = host->ticks_per_second * MUSTER_S, .n = n
	};
	uint64_t stacks, n_pages = (n - 1) * (STACK_BYTES / EFI_PAGE_SIZE);
	EFI_STATUS status = EFI_OUT_OF_RESOURCES;

	if (n == 0 || n > host->n_cpus || host->is_processor_lost)
		return false;
	if (n == 1) {
		function(ctx, 0);
		return true;
	}
	if (!efi_pages_allocate(n_pages, UINTPTR_MAX, &stacks))
		return false;
	efi_stacks = (struct efi_stacks){ (uintptr_t)stacks, (n - 1) * STACK_BYTES };
	if (efi_errands_begin(host)) {
		status = start(&gang);
		efi_errands_end();
	}
	efi_stacks = (struct efi_stacks){ 0, 0 };
	efi_pages_free(stacks, n_pages);
	host->is_processor_lost = gang.signal == GO && EFI_ERROR(status);
	return gang.signal == GO && !EFI_ERROR(status);
}

/* Enabled and healthy ones, this one among them. */
static unsigned find_processors(void)
{
	UINTN n_processors = 0, n_enabled = 0;
	unsigned n = 1;

	if (EFI_ERROR(mp->get_number_of_processors(mp, &n_processors, &n_enabled)))
		return 1;
	for (UINTN number = 0; number < n_processors && number < MAX_NUMBERS && n < KPORT_CPUS; number++) {
		struct processor_information information = { .status_flag = 0 };
		const UINT32 wanted = PROCESSOR_ENABLED_BIT | PROCESSOR_HEALTH_STATUS_BIT;

		if (!EFI_ERROR(mp->get_processor_info(mp, number, &information)) &&
		    (information.status_flag & (wanted | PROCESSOR_AS_BSP_BIT)) == wanted)
			index_of[number] = (uint8_t)n++;
	}
	return n;
}

void efi_processors_begin(struct host *host)
{
	static const EFI_GUID guid = { 0x3fdda605, 0xa76e, 0x4f46, { 0xad, 0x29, 0x12, 0xf4, 0x53, 0x1b, 0x3d, 0x08 } };

	host->n_cpus = 1;
	mp = efi_locate(&guid);
	if (mp == NULL) {
		host->why_one_cpu = "It needs more than one processor, and this firmware has no MP services to start "
				    "the others with.";
		return;
	}
	host->n_cpus = find_processors();
	if (host->n_cpus > 1)
		host->run_parallel = run_parallel;
	else
		host->why_one_cpu = "It needs more than one processor, and the firmware has enabled this one only.";
}
