/* SPDX-License-Identifier: MIT */
/*
 * The few instructions that C has no words for, on x86_64 and ia32. Another architecture gets a file of its own
 * beside this one.
 */
#ifndef EFI_X86_H
#define EFI_X86_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cpuid {
	uint32_t a, b, c, d;
};

static inline struct cpuid cpuid(uint32_t leaf, uint32_t subleaf)
{
	struct cpuid r;
	__asm__ volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(subleaf));
	return r;
}

static inline uint64_t read_tsc(void)
{
	uint32_t low, high;
	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}

/* What comes before is done, and what comes after has not begun. */
static inline uint64_t read_tsc_between(void)
{
	uint32_t low, high;
	__asm__ volatile("lfence; rdtsc; lfence" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}

/* Faults where the processor has no such register. */
static inline uint64_t read_msr(uint32_t number)
{
	uint32_t low, high;
	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(number));
	return (uint64_t)high << 32 | low;
}

static inline uint32_t read_port32(uint16_t port)
{
	uint32_t value;
	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

/* False when the generator has nothing to give just now. Only where CPUID.1:ECX[30] is set. */
static inline bool read_random(uint64_t *value)
{
	size_t word;
	unsigned char ok;
	__asm__ volatile("rdrand %0; setc %1" : "=r"(word), "=qm"(ok) : : "cc");
	*value = word;
	return ok != 0;
}

#endif
