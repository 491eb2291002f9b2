/* SPDX-License-Identifier: MIT */
/*
 * Bits, bytes and rounding: the few machine-near helpers that every storey of the heap uses. No state, no heap knowledge.
 */
#ifndef HEAP_BITS_H
#define HEAP_BITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Words that may overlay any object, for filling and copying. */
typedef uint64_t __attribute__((may_alias)) word_alias;
typedef uint64_t __attribute__((may_alias, aligned(1))) unaligned_word;

static inline bool is_power_of_two(size_t n)
{
	return n != 0 && (n & (n - 1)) == 0;
}

/* The index of the highest set bit; n != 0. */
static inline unsigned log2_floor(size_t n)
{
	return (unsigned)__builtin_clzll(n) ^ (8 * sizeof(unsigned long long) - 1);
}

/* The index of the lowest set bit; n != 0. */
static inline unsigned lowest_bit(uint64_t n)
{
	return (unsigned)__builtin_ctzll(n);
}

/* `alignment` is a power of two. The caller has made sure that nothing overflows. */
static inline uintptr_t align_up(uintptr_t n, uintptr_t alignment)
{
	return (n + alignment - 1) & ~(alignment - 1);
}

static inline uintptr_t align_down(uintptr_t n, uintptr_t alignment)
{
	return n & ~(alignment - 1);
}

static inline size_t min_size(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* By so much a is larger. */
static inline size_t above(size_t a, size_t b)
{
	return a > b ? a - b : 0;
}

static inline size_t max_size(size_t a, size_t b)
{
	return a > b ? a : b;
}

/* From so many words on x86's string instructions are faster than a loop. The direction flag is clear, as the ABI asks. */
#define REP_WORDS 32

/* Start is aligned to 8; the last word may reach up to 7 bytes past n, inside the object's 16-byte granule. */
static inline void fill_words(void *start, uint64_t value, size_t n_bytes)
{
	word_alias *word = start;
	size_t n_words = (n_bytes + 7) / 8;

#if defined(__x86_64__)
	if (n_words >= REP_WORDS) {
		__asm__ volatile("rep stosq" : "+D"(word), "+c"(n_words) : "a"(value) : "memory");
		return;
	}
#endif
	for (word_alias *end = word + n_words; word < end; word++)
		*word = value;
}

/* What another CPU may read or write at the same moment, where it makes no difference which value it gets. */
#define LOAD(place) __atomic_load_n(&(place), __ATOMIC_RELAXED)
#define STORE(place, value) __atomic_store_n(&(place), value, __ATOMIC_RELAXED)
/* The same in as few instructions as plain code: gcc takes one more for the address, or the value, of an atomic access. */
#ifdef __SANITIZE_THREAD__
#define LOAD_FAST(place) LOAD(place)
#define STORE_FAST(place, value) STORE(place, value)
#else
#define LOAD_FAST(place) (place)
#define STORE_FAST(place, value) ((place) = (value))
#endif

static inline void copy_words(void *to, const void *from, size_t n_bytes)
{
	word_alias *out = to;
	const word_alias *in = from;
	size_t n_words = (n_bytes + 7) / 8;

#if defined(__x86_64__)
	if (n_words >= REP_WORDS) {
		__asm__ volatile("rep movsq" : "+D"(out), "+S"(in), "+c"(n_words) : : "memory");
		return;
	}
#endif
	for (word_alias *end = out + n_words; out < end; out++, in++)
		*out = *in;
}

/* A few bytes, each of which others may be reading. */
static inline void fill_bytes(uint8_t *byte, uint8_t value, size_t n_bytes)
{
#ifndef __SANITIZE_THREAD__
	for (; n_bytes >= 8; byte += 8, n_bytes -= 8)
		*(unaligned_word *)byte = value * (uint64_t)0x0101010101010101;
#endif
	for (uint8_t *end = byte + n_bytes; byte < end; byte++)
		STORE(*byte, value);
}

/* In a loop that waits for another CPU. */
static inline void pause_briefly(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

/* Loads before it come before loads after it. x86 keeps them in order by itself. */
static inline void load_fence(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__atomic_signal_fence(__ATOMIC_ACQUIRE);
#else
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
#endif
}

#endif
