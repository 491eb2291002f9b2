/* SPDX-License-Identifier: MIT */
/*
 * Quiet while something is timed: at TPL_NOTIFY no event notification runs, so
 * no driver polls its device in between. Timer interrupts still count the
 * firmware's ticks. Not higher, because AllocatePool and AllocatePages, which
 * are measured too, are not allowed above that level. What no program can keep
 * away are system management interrupts; Intel counts them.
 */
#include "efi_host.h"
#include "x86.h"

#define MSR_SMI_COUNT 0x34
#define LEAF1_ECX_HYPERVISOR (1u << 31)
/* "GenuineIntel", as CPUID spells it. */
#define INTEL_B 0x756e6547u
#define INTEL_D 0x49656e69u
#define INTEL_C 0x6c65746eu
/* The register came with Nehalem, model 1Ah of family 6. */
#define FIRST_MODEL 0x1au

static EFI_TPL level_before;

static void quiet_begin(struct host *host)
{
	(void)host;
	level_before = efi_boot->RaiseTPL(TPL_NOTIFY);
}

static void quiet_end(struct host *host)
{
	(void)host;
	efi_boot->RestoreTPL(level_before);
}

/* A processor without the register faults when it is read, and virtual machines
 * often leave it out. */
static bool counts_smi(void)
{
	struct cpuid vendor = cpuid(0, 0), features = cpuid(1, 0);
	uint32_t family = features.a >> 8 & 15, model = (features.a >> 4 & 15) | (features.a >> 12 & 0xf0);

	return vendor.b == INTEL_B && vendor.d == INTEL_D && vendor.c == INTEL_C && family == 6 &&
	       model >= FIRST_MODEL && (features.c & LEAF1_ECX_HYPERVISOR) == 0;
}

/* Atoms between those models do not have it. */
static bool is_early_atom(void)
{
	uint32_t a = cpuid(1, 0).a, model = (a >> 4 & 15) | (a >> 12 & 0xf0);

	return model == 0x1c || model == 0x26 || model == 0x27 || model == 0x35 || model == 0x36;
}

static bool smi_count(struct host *host, uint32_t *count)
{
	(void)host;
	if (!counts_smi() || is_early_atom())
		return false;
	*count = (uint32_t)read_msr(MSR_SMI_COUNT);
	return true;
}

void efi_quiet_begin(struct host *host)
{
	host->quiet_begin = quiet_begin;
	host->quiet_end = quiet_end;
	host->smi_count = smi_count;
}
