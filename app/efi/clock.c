/* SPDX-License-Identifier: MIT */
/*
 * The clock is the time stamp counter. Its rate is measured against the ACPI timer, or against Stall() where there
 * is none; what CPUID claims is taken only when it agrees, because it is exact then. Firmware timer events lose
 * ticks and measure nothing.
 */
#include "../suite/text.h"
#include "efi_host.h"
#include "x86.h"

#define CALIBRATION_US 50000
/* All timers have at least this many bits; 50 ms are far from wrapping them. */
#define ACPI_TIMER_MASK 0xffffffu
/* CPUID and the measurement agree when they differ by less than one part in this many. */
#define TOLERANCE 50
/* When nothing could be measured: a number that is at least not zero. */
#define ASSUMED_HZ 1000000000u

#define LEAF1_ECX_RDRAND (1u << 30)
#define LEAF1_ECX_HYPERVISOR (1u << 31)
#define LEAF80000007_EDX_INVARIANT_TSC (1u << 8)

static uint64_t ticks(struct host *host)
{
	(void)host;
	efi_errands_look();
	return read_tsc();
}

static uint64_t cycles(struct host *host)
{
	(void)host;
	return read_tsc_between();
}

/* Ticks per second, as this machine's other clocks see it. */
static uint64_t measure(void)
{
	uint16_t port = efi_acpi_timer_port();
	uint32_t acpi_start = port ? read_port32(port) : 0;
	uint64_t start = read_tsc();
	uint64_t passed;
	uint32_t acpi_passed;

	efi_boot->Stall(CALIBRATION_US);
	acpi_passed = port ? (read_port32(port) - acpi_start) & ACPI_TIMER_MASK : 0;
	passed = read_tsc() - start;
	/* Stall() lasts at least as long as it was asked to; an ACPI timer that saw less is not running. */
	if (acpi_passed >= (uint64_t)ACPI_TIMER_HZ * CALIBRATION_US / 1000000 * 9 / 10)
		return passed * ACPI_TIMER_HZ / acpi_passed;
	return passed * (1000000 / CALIBRATION_US);
}

/* What CPUID says; 0 when it does not. */
static uint64_t claimed(void)
{
	uint32_t max_leaf = cpuid(0, 0).a;
	struct cpuid ratio, speed;

	if (max_leaf < 0x15)
		return 0;
	ratio = cpuid(0x15, 0);
	if (ratio.a == 0 || ratio.b == 0)
		return 0;
	if (ratio.c != 0)
		return (uint64_t)ratio.c * ratio.b / ratio.a;
	/* The crystal is not given, but the base frequency is, and the counter runs at it. */
	speed = max_leaf >= 0x16 ? cpuid(0x16, 0) : (struct cpuid){ 0 };
	return (uint64_t)(speed.a & 0xffff) * 1000000;
}

static uint64_t rate(struct host *host)
{
	uint64_t measured = measure();
	uint64_t claim = claimed();
	uint64_t difference = measured > claim ? measured - claim : claim - measured;

	text_format(host->calibration, sizeof(host->calibration), "measured against %s for 50 ms%s",
	            efi_acpi_timer_port() ? "the ACPI timer" : "the firmware's Stall()",
	            measured != 0 && difference < measured / TOLERANCE ? ", as CPUID says" : "");
	if (measured == 0)
		return claim ? claim : ASSUMED_HZ;
	return difference < measured / TOLERANCE ? claim : measured;
}

/* The brand string without the spaces that some are padded with. */
static void brand(char *out, size_t size)
{
	char raw[48];
	size_t n = 0;

	text_copy(out, size, "x86 processor");
	if (cpuid(0x80000000, 0).a < 0x80000004)
		return;
	for (uint32_t i = 0; i < 3; i++) {
		struct cpuid part = cpuid(0x80000002 + i, 0);
		__builtin_memcpy(raw + 16 * i, &part, sizeof(part));
	}
	for (size_t i = 0; i < sizeof(raw) && raw[i] && n + 1 < size; i++) {
		if (raw[i] == ' ' && (n == 0 || out[n - 1] == ' '))
			continue;
		out[n++] = raw[i] >= ' ' && raw[i] <= '~' ? raw[i] : '?';
	}
	if (n > 0 && out[n - 1] == ' ')
		n--;
	if (n > 0)
		out[n] = '\0';
}

static uint64_t entropy(struct host *host)
{
	static uint64_t state;
	uint64_t random, mixed;
	EFI_TIME now = { 0 };

	(void)host;
	/* Once is enough, and on some machines each look at the clock is slow. */
	if (state == 0 && !EFI_ERROR(efi_system->RuntimeServices->GetTime(&now, NULL)))
		state = ((uint64_t)now.Year << 40) ^ ((uint64_t)now.Month << 32) ^ ((uint64_t)now.Day << 24) ^
		        ((uint64_t)now.Hour << 16) ^ ((uint64_t)now.Minute << 8) ^ now.Second;
	if ((cpuid(1, 0).c & LEAF1_ECX_RDRAND) && read_random(&random))
		state ^= random;
	state += read_tsc() * 0x9e3779b97f4a7c15u;
	/* SplitMix64's finish: every bit of the state reaches every bit of the result. */
	mixed = state;
	mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9u;
	mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111ebu;
	return mixed ^ mixed >> 31;
}

void efi_clock_begin(struct host *host)
{
	bool is_invariant =
		cpuid(0x80000000, 0).a >= 0x80000007 && (cpuid(0x80000007, 0).d & LEAF80000007_EDX_INVARIANT_TSC) != 0;
	unsigned mhz;

	host->ticks = ticks;
	host->entropy = entropy;
	host->ticks_per_second = rate(host);
	if (host->ticks_per_second < 1000000)
		host->ticks_per_second = ASSUMED_HZ;
	host->cycles = cycles;
	host->cycles_per_second = host->ticks_per_second;
	host->is_rate_steady = is_invariant;
	host->is_virtual_machine = (cpuid(1, 0).c & LEAF1_ECX_HYPERVISOR) != 0;
	mhz = (unsigned)(host->ticks_per_second / 1000000);
	/* In a virtual machine nobody believes the clock anyway, and that is said where it is shown. */
	text_format(host->clock, sizeof(host->clock), "TSC %u.%03u GHz%s", mhz / 1000, mhz % 1000,
	            is_invariant || host->is_virtual_machine ? "" : ", rate may vary");
	brand(host->cpu, sizeof(host->cpu));
}
