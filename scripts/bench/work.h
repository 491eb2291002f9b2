/* SPDX-License-Identifier: MIT */
/*
 * The published workloads, for programs that measure an allocator from outside: count.c calls the heap, time.c calls malloc.
 * Each supplies the calls.
 */
#ifndef WORK_H
#define WORK_H

#include <stdbool.h>
#include <stddef.h>

void *work_alloc(size_t n);
void work_free(void *object);
void *work_resize(void *object, size_t n);
/* Around what counts. */
void work_begin(void);
void work_end(void);

#define WORK_STEPS 200000

/* How many operations the last workload counted, and the most bytes that were live in it. */
extern size_t work_operations, work_peak;
/* Objects of b and c, 10,000 if nothing else is said. */
#define WORK_SLOTS_MAX 10000000
extern size_t work_slots;

/* One of a A b c d1 d2 e f g; false: there is no such workload, or memory ran out. */
bool work_named(const char *name);
/* Fill all slots and replace at random; everything is left live. False: no memory. */
bool work_churn(unsigned octaves, size_t n_steps);

#endif
