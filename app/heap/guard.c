/* SPDX-License-Identifier: MIT */
/*
 * The hardened build's canaries and poison. Behind the caller's bytes stands a canary up to the end of the object's space, its last word
 * keyed to the address and holding the size, so that one byte too many is seen. Free memory holds poison, and is checked before it is
 * handed out again. Nothing of this is compiled into the release build.
 */
#include "internal.h"

#if HARDENED

static uint64_t key_of(const struct kheap *heap, uintptr_t object)
{
	uint64_t x = (object ^ heap->secret) * 0x9e3779b97f4a7c15u;

	return x ^ x >> 32;
}

static unsigned char canary_byte(uint64_t key)
{
	/* Never 0: a string's end is the commonest overrun. */
	return (unsigned char)(key >> 8 | 1);
}

/*
 * The last word: a canary byte, then the size (below 2^47) with a hash of it, so that no single changed byte gives another size; the
 * key over all but the first byte.
 */
#define SIZE_BITS 47
#define SIZE_MASK (((uint64_t)1 << SIZE_BITS) - 1)

static uint64_t last_word(uint64_t key, size_t size)
{
	uint64_t check = (size * 0x9e3779b97f4a7c15u) >> (SIZE_BITS + 8) << SIZE_BITS;

	return (((size & SIZE_MASK) | check) << 8 ^ (key & ~(uint64_t)0xff)) | canary_byte(key);
}

void guard_arm(const struct kheap *heap, uintptr_t object, size_t size, size_t slot)
{
	uint64_t key = key_of(heap, object);
	unsigned char *byte = (unsigned char *)object;

	for (size_t i = size; i < slot - GUARD_BYTES; i++)
		byte[i] = canary_byte(key);
	*(word_alias *)(object + slot - GUARD_BYTES) = last_word(key, size);
}

size_t guard_read(const struct kheap *heap, uintptr_t object, size_t slot, uintptr_t *damage)
{
	uint64_t key = key_of(heap, object);
	uint64_t word = *(const word_alias *)(object + slot - GUARD_BYTES);
	size_t size = (size_t)((word ^ key) >> 8 & SIZE_MASK);
	const unsigned char *byte = (const unsigned char *)object;

	*damage = object + slot - GUARD_BYTES;
	if (word != last_word(key, size) || size > slot - GUARD_BYTES)
		return slot - GUARD_BYTES;
	for (size_t i = size; i < slot - GUARD_BYTES; i++) {
		if (byte[i] != canary_byte(key)) {
			*damage = object + i;
			return size;
		}
	}
	*damage = 0;
	return size;
}

void guard_poison(uintptr_t start, size_t n_bytes)
{
	fill_words((void *)start, POISON_WORD, n_bytes);
}

uintptr_t guard_scan(uintptr_t start, size_t n_bytes)
{
	const word_alias *word = (const word_alias *)start;

	for (size_t i = 0; i < n_bytes / 8; i++) {
		if (word[i] == POISON_WORD)
			continue;
		uint64_t difference = word[i] ^ POISON_WORD;

		return start + 8 * i + lowest_bit(difference) / 8;
	}
	return 0;
}

void guard_verify(struct kheap *heap, uintptr_t start, size_t n_bytes)
{
	uintptr_t damage = guard_scan(start, n_bytes);

	if (damage)
		heap_error(heap, KMALLOC_WRITE_AFTER_FREE, damage, n_bytes);
}

#else

/* A translation unit may not be empty. */
typedef int guard_is_not_compiled;

#endif
