/* SPDX-License-Identifier: MIT */
/*
 * What the recorder's files offer each other. The recorder is a library of its own, preloaded into any program; nothing of
 * it may allocate through malloc, because it is inside malloc.
 */
#ifndef LINUX_RECORD_H
#define LINUX_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* objects.c: the live objects by address, and the slots that stand for them in the trace. */

/* What is known of a live object. */
struct object {
	uintptr_t address;
	uint64_t size;
	uint32_t slot;
};

/* The object at that address, or NULL; valid until the next call. */
struct object *objects_find(const void *address);
/* A new object in the slot that the format says. NULL: no memory, or too many objects; recording cannot go on. */
struct object *objects_insert(const void *address, uint64_t size);
/* The object moved; it keeps its slot. False: no memory. */
bool objects_move(struct object *object, const void *address, uint64_t size);
void objects_erase(struct object *object);
/* The most that were live at once. */
uint64_t objects_n_slots(void);

/* writer.c: the file. */

/* Begin the file of this process. False: it cannot be written, which has been said. */
bool writer_begin(void);
/* Room for that many bytes at the returned place; writer_advance() takes what was used of it. NULL: the file cannot be written. */
uint8_t *writer_room(size_t n);
void writer_advance(size_t n);
/* Write what is left. */
void writer_end(void);
/* One line to stderr: "kmalloc-record: ..." */
void writer_complain(const char *what, const char *name);

#endif
