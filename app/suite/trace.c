/* SPDX-License-Identifier: MIT */
/*
 * Reading traces. The file may come from anywhere: every byte is checked before it is used, and nothing is trusted that
 * was not counted here.
 */
#include "trace.h"

#include "text.h"

static bool get_varint(const struct trace *trace, size_t *at, uint64_t *value)
{
	unsigned shift = 0;

	*value = 0;
	while (*at < trace->size && shift < 64) {
		uint8_t byte = trace->bytes[(*at)++];
		if (shift == 63 && byte > 1)
			return false;
		*value |= (uint64_t)(byte & 0x7f) << shift;
		if (byte < 0x80)
			return true;
		shift += 7;
	}
	return false;
}

/* One event with its operands. False: the bytes there are none. */
static bool decode(const struct trace *trace, size_t *at, struct trace_event *event)
{
	uint64_t value, log2_alignment;

	if (!get_varint(trace, at, &value))
		return false;
	*event = (struct trace_event){ .kind = (enum trace_kind)(value & ((1u << TRACE_KIND_BITS) - 1)) };
	value >>= TRACE_KIND_BITS;
	switch (event->kind) {
	case TRACE_ALLOC:
	case TRACE_CALLOC:
		event->size = value;
		break;
	case TRACE_ALIGNED:
		event->size = value;
		if (!get_varint(trace, at, &log2_alignment) || log2_alignment > TRACE_LOG2_ALIGNMENT_MAX)
			return false;
		event->log2_alignment = (unsigned)log2_alignment;
		break;
	case TRACE_REALLOC:
		event->slot = value;
		if (!get_varint(trace, at, &event->size))
			return false;
		break;
	case TRACE_END:
	case TRACE_FREE:
	case TRACE_THREAD:
		event->slot = value;
		break;
	default:
		return false;
	}
	return event->size <= TRACE_SIZE_MAX;
}

/* False: this is no trace of ours. */
static bool read_header(struct trace *trace, char *why, size_t why_size)
{
	size_t at = TRACE_MAGIC_SIZE + 1;
	uint64_t length;

	if (trace->size < at || __builtin_memcmp(trace->bytes, TRACE_MAGIC, TRACE_MAGIC_SIZE) != 0) {
		text_format(why, why_size, "It is not a trace: it does not begin as traces do.");
		return false;
	}
	if (trace->bytes[TRACE_MAGIC_SIZE] != TRACE_VERSION) {
		text_format(why, why_size, "It is a trace of version %u; this program reads version %u.",
		            trace->bytes[TRACE_MAGIC_SIZE], TRACE_VERSION);
		return false;
	}
	if (!get_varint(trace, &at, &length) || length > TRACE_NAME_MAX || length > trace->size - at) {
		text_format(why, why_size, "The trace's header is damaged; record it again.");
		return false;
	}
	for (size_t i = 0; i < length && i + 1 < sizeof(trace->program); i++) {
		char c = (char)trace->bytes[at + i];
		/* It is printed between quotes. */
		trace->program[i] = c >= ' ' && c <= '~' && c != '"' && c != '\\' ? c : '?';
	}
	trace->first_event = at + (size_t)length;
	return true;
}

static bool read_trailer(struct trace *trace, size_t at, const struct trace_event *end, const struct trace_counts *seen)
{
	struct trace_counts *counts = &trace->counts;

	counts->n_events = end->slot;
	return get_varint(trace, &at, &counts->n_objects) && get_varint(trace, &at, &counts->n_slots) &&
	       get_varint(trace, &at, &counts->n_threads) && get_varint(trace, &at, &counts->peak_live_bytes) &&
	       get_varint(trace, &at, &counts->n_left_out) && at == trace->size && counts->n_events == seen->n_events &&
	       counts->n_objects == seen->n_objects && counts->n_slots == seen->n_slots &&
	       counts->n_threads == seen->n_threads;
}

bool trace_open(struct trace *trace, const void *bytes, size_t size, char *why, size_t why_size)
{
	struct trace_counts seen = { .n_threads = 1 };
	struct trace_event event;
	uint64_t n_live = 0;
	size_t at, begin;

	*trace = (struct trace){ .bytes = bytes, .size = size };
	if (!read_header(trace, why, why_size))
		return false;
	for (at = begin = trace->first_event; at < size; begin = at, seen.n_events++) {
		if (!decode(trace, &at, &event))
			break;
		if (event.kind == TRACE_END) {
			if (read_trailer(trace, at, &event, &seen))
				return true;
			text_format(why, why_size, "The trace's counts do not agree with its events; record it again.");
			return false;
		}
		bool is_new = event.kind == TRACE_ALLOC || event.kind == TRACE_CALLOC || event.kind == TRACE_ALIGNED;
		seen.n_objects += is_new;
		n_live += is_new;
		trace->n_resizes += event.kind == TRACE_REALLOC;
		if (event.kind == TRACE_FREE) {
			trace->n_frees++;
			if (n_live-- == 0)
				break;
		}
		if (n_live > seen.n_slots)
			seen.n_slots = n_live;
		if (event.kind == TRACE_THREAD && event.slot >= seen.n_threads)
			seen.n_threads = event.slot + 1;
	}
	if (at >= size)
		text_format(why, why_size,
		            "The trace breaks off after %llu events; record it again and let the program end.",
		            (unsigned long long)seen.n_events);
	else
		text_format(why, why_size, "The trace is damaged at byte %zu (event %llu); record it again.", begin,
		            (unsigned long long)seen.n_events);
	return false;
}

void trace_begin(struct trace_reader *reader, const struct trace *trace)
{
	*reader = (struct trace_reader){ .trace = trace, .at = trace->first_event };
}

bool trace_next(struct trace_reader *reader, struct trace_event *event)
{
	return decode(reader->trace, &reader->at, event) && event->kind != TRACE_END;
}
