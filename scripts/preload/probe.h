/* SPDX-License-Identifier: MIT */
/*
 * What a program may expect of malloc and its relatives, asked of whatever library is preloaded: one function a question, which ends the
 * program when the answer is wrong. Not part of the product.
 */
#ifndef PROBE_H
#define PROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Younger than the C library's headers. */
void free_sized(void *object, size_t size) __attribute__((weak));
void free_aligned_sized(void *object, size_t alignment, size_t size) __attribute__((weak));

_Noreturn void check_failed(const char *text, const char *file, int line);
#define CHECK(condition) ((condition) ? (void)0 : check_failed(#condition, __FILE__, __LINE__))

/* The compiler may not know what it is: it would warn of, or drop, calls that a program should not make. */
size_t hide_size(size_t size);
void *hide(void *pointer);

bool is_aligned(const void *object, size_t alignment);
bool is_filled(const unsigned char *byte, unsigned char value, size_t n);
size_t resident_bytes(void);
/* The most that it ever was. */
size_t peak_resident_bytes(void);
uint64_t random_next(uint64_t *state);
#define RANDOM_SEED UINT64_C(88172645463325252)

/* threads.c: allocate, fill, check and free, for so many steps. */
void churn(uint64_t seed, size_t n_steps);
/* Churns for a moment; returns an object for another thread to free. */
void *short_thread(void *seed);

void probe_loaded(void);
void probe_malloc(void);
void probe_too_large(void);
void probe_alignment(void);
void probe_wrong_alignment(void);
void probe_errno(void);
void probe_calloc(void);
void probe_realloc(void);
void probe_sized(void);
void probe_moving(void);
void probe_vast(void);
void probe_aligned_reuse(void);
void probe_trim(void);
void probe_returns(void);
void probe_returns_late(void);
void probe_returns_holes(void);
void probe_returns_last(void);
void probe_refill(void);
void probe_sparse_zeros(void);
void probe_order(void);
void probe_growing(void);
void probe_short_threads(void);
void probe_detached_threads(void);
void probe_many_threads(void);
void probe_late_frees(void);
void probe_producer_consumer(void);
void probe_crowd(void);
void probe_spike(void);
void probe_fork_in_threads(void);
void probe_fork_in_growth(void);
void probe_address_limit(void);
void probe_sandbox(void);
void probe_locked(void);
void probe_ahead(void);
void probe_start_and_end(void);
void misuse_double_free(void);
void misuse_double_free_large(void);
void misuse_foreign_stack(void);
void misuse_foreign_low(void);
void misuse_interior(void);
void misuse_misaligned(void);
void misuse_realloc_freed(void);
void misuse_overrun(void);
void misuse_wrong_size(void);

#endif
