/* SPDX-License-Identifier: MIT */
/*
 * The trace format: which objects a program allocated, resized and freed, in which order. The recorder (app/linux/record)
 * writes it and replay reads it; both take every constant from here. A trace holds no addresses, no contents and no times,
 * so it is the same wherever the program ran.
 *
 * A file is a header, events, and a trailer. A varint is a number of 1 to 10 bytes, 7 bits in each, the lowest first; bit 7
 * says that another byte follows.
 *
 *   header   8 bytes "KMTRACE\n", a byte with the version (1), varint length of the program's name, the name (ASCII)
 *   event    varint: the event's kind in the lowest 3 bits, its operand above them
 *              ALLOC    operand: size                          a new object
 *              CALLOC   operand: size                          a new object, zeroed
 *              ALIGNED  operand: size; varint log2(alignment)  a new object; only for alignments above 16
 *              REALLOC  operand: slot; varint new size         the object keeps its slot
 *              FREE     operand: slot
 *              THREAD   operand: number (0, 1, ...)            the events that follow are of this thread; it is 0 at first
 *   trailer  varint: END, its operand the number of events (THREAD counts); then varints: objects made, slots used (which is
 *            the most objects that were live at once), threads, peak of the live bytes as asked for, and how many frees were
 *            left out because their object was older than the recording. The file ends there.
 *
 * Objects are named by slots. A new object takes the slot that was freed last, or, when none is free, the next number from 0
 * on; so slots need not be written with an allocation, and stay small. Allocations that failed are not in a trace.
 */
#ifndef SUITE_TRACE_H
#define SUITE_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TRACE_MAGIC "KMTRACE\n"
#define TRACE_MAGIC_SIZE 8
#define TRACE_VERSION 1
#define TRACE_NAME_MAX 255
#define TRACE_KIND_BITS 3
/* Larger sizes are not legal: no machine has so much memory. */
#define TRACE_SIZE_MAX ((uint64_t)1 << 48)
#define TRACE_LOG2_ALIGNMENT_MAX 47
#define TRACE_VARINT_MAX 10

enum trace_kind {
	TRACE_END,
	TRACE_ALLOC,
	TRACE_CALLOC,
	TRACE_ALIGNED,
	TRACE_REALLOC,
	TRACE_FREE,
	TRACE_THREAD,
};

/* The counts of the trailer. */
struct trace_counts {
	uint64_t n_events;
	uint64_t n_objects;
	uint64_t n_slots;
	uint64_t n_threads;
	uint64_t peak_live_bytes;
	uint64_t n_left_out;
};

/* Write a varint at `out`, which has room for TRACE_VARINT_MAX bytes; returns how many it took. */
static inline size_t trace_put_varint(uint8_t *out, uint64_t value)
{
	size_t n = 0;

	for (; value >= 0x80; value >>= 7)
		out[n++] = (uint8_t)(value | 0x80);
	out[n++] = (uint8_t)value;
	return n;
}

/* ------------------------------------------------------------------------------------------------------------
 * Reading (trace.c): any bytes may be given; nothing beyond them is touched
 * --------------------------------------------------------------------------------------------------------- */

struct trace_event {
	enum trace_kind kind;
	uint64_t slot; /* REALLOC, FREE; THREAD: the thread's number */
	uint64_t size;
	unsigned log2_alignment; /* ALIGNED */
};

struct trace {
	const uint8_t *bytes;
	size_t size;
	size_t first_event;          /* where the events begin */
	char program[40];            /* the name, cut to this, printable */
	struct trace_counts counts;  /* of the trailer, once trace_open() has returned true */
	uint64_t n_frees, n_resizes; /* counted by trace_open() */
};

/* Where a reader stands. */
struct trace_reader {
	const struct trace *trace;
	size_t at;
};

/*
 * Check the form of a whole trace: header, every event, trailer, and that the counts of objects, slots and events agree with
 * the events. False: why[] says in one sentence what is wrong. O(size). Which slots are live is for the replay to check.
 */
bool trace_open(struct trace *trace, const void *bytes, size_t size, char *why, size_t why_size);

void trace_begin(struct trace_reader *reader, const struct trace *trace);
/* The next event; false after the last one. */
bool trace_next(struct trace_reader *reader, struct trace_event *event);

#endif
