/* SPDX-License-Identifier: MIT */
/*
 * The pattern: word i of a block is key + i * step, the key a mix of the block's number. Written in words, because
 * most of a stress run's time is spent here.
 */
#include "pattern.h"

#define STEP 0x9e3779b97f4a7c15u
#define WORD sizeof(uint64_t)

static uint64_t key_of(uint64_t number)
{
	number = (number + 1) * 0xbf58476d1ce4e5b9u;
	return (number ^ number >> 29) * 0x94d049bb133111ebu;
}

static uint8_t byte_of(uint64_t key, size_t i)
{
	return (uint8_t)((key + i / WORD * STEP) >> (8 * (i % WORD)));
}

uint8_t pattern_byte(uint64_t number, size_t i)
{
	return byte_of(key_of(number), i);
}

void pattern_fill(void *object, uint64_t number, size_t from, size_t to)
{
	uint64_t key = key_of(number), word;
	uint8_t *bytes = object;

	for (; from < to && from % WORD != 0; from++)
		bytes[from] = byte_of(key, from);
	for (word = key + from / WORD * STEP; from + WORD <= to; from += WORD, word += STEP)
		__builtin_memcpy(bytes + from, &word, WORD);
	for (; from < to; from++)
		bytes[from] = byte_of(key, from);
}

size_t pattern_verify(const void *object, uint64_t number, size_t size)
{
	uint64_t key = key_of(number), word = key, seen, difference = 0;
	const uint8_t *bytes = object;
	size_t i = 0;

	/* One pass without a branch on what was read; only a damaged block is looked at byte by byte. */
	for (; i + WORD <= size; i += WORD, word += STEP) {
		__builtin_memcpy(&seen, bytes + i, WORD);
		difference |= seen ^ word;
	}
	if (difference != 0)
		i = 0;
	for (; i < size; i++)
		if (bytes[i] != byte_of(key, i))
			return i;
	return PATTERN_INTACT;
}
