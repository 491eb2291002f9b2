/* SPDX-License-Identifier: MIT */
/*
 * What the stress run writes into a block: bytes that follow from the block's number, so that two blocks that
 * overlap, or a block that was moved badly, cannot look right. Every byte is written and every byte is read back.
 */
#ifndef SUITE_PATTERN_H
#define SUITE_PATTERN_H

#include <stddef.h>
#include <stdint.h>

#define PATTERN_INTACT SIZE_MAX

/* Write bytes [from, to) of block `number`. */
void pattern_fill(void *object, uint64_t number, size_t from, size_t to);
/* The first of bytes [0, size) that is wrong, or PATTERN_INTACT. */
size_t pattern_verify(const void *object, uint64_t number, size_t size);
/* What byte i of block `number` must be. */
uint8_t pattern_byte(uint64_t number, size_t i);

#endif
