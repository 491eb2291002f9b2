/* SPDX-License-Identifier: MIT */
/*
 * Text without a libc: what the firmware and Linux print is made by the same code.
 */
#ifndef SUITE_TEXT_H
#define SUITE_TEXT_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "host.h"

/*
 * snprintf's contract (always ends in NUL, returns the length that the whole text would have) for: %% %c %s %d %i
 * %u %x %X %p with flags '-', '0', '+' (numbers), ''' (thousands separators), a width or '*', a precision for %s,
 * and the lengths l, ll, z, j.
 */
int text_format(char *out, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));
int text_vformat(char *out, size_t size, const char *format, va_list args) __attribute__((format(printf, 3, 0)));

/* Through host->write. At most 500 characters. */
void text_print(struct host *host, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* "183.2 MiB", "12 B": at most four digits. Returns out. */
char *text_bytes(char *out, size_t size, uint64_t bytes);

size_t text_length(const char *text);
int text_compare(const char *a, const char *b);
/* ASCII letters of either case are equal. */
int text_compare_nocase(const char *a, const char *b);
void text_copy(char *out, size_t size, const char *text);
/* A whole decimal or 0x number, optionally (units) followed by K, M or G (binary). False: not one, or it overflows. */
bool text_number(const char *text, bool units, uint64_t *value);

#endif
