/* SPDX-License-Identifier: MIT */
/*
 * Misuse of the heap: one line on the standard error output that says what happened to which address, then abort, as the C library does.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <kmalloc_port.h>

#include "preload.h"

#define LINE_SIZE 400

const char *preload_decimal(char *buffer, uint64_t number)
{
	char *at = buffer + DECIMAL_SIZE;

	*--at = '\0';
	do
		*--at = (char)('0' + number % 10);
	while (number /= 10);
	return at;
}

const char *preload_hex(char *buffer, uintptr_t number)
{
	char *at = buffer + DECIMAL_SIZE;

	*--at = '\0';
	do
		*--at = "0123456789abcdef"[number % 16];
	while (number /= 16);
	*--at = 'x';
	*--at = '0';
	return at;
}

_Noreturn void preload_die(const char *const text[])
{
	/* In one piece, so that other threads' lines do not come between. */
	char line[LINE_SIZE];
	size_t length = 0;

	for (; *text; text++) {
		size_t n = strlen(*text);

		if (n > LINE_SIZE - length)
			n = LINE_SIZE - length;
		memcpy(line + length, *text, n);
		length += n;
	}
	/* There is nobody to tell when this fails. */
	if (write(STDERR_FILENO, line, length) < 0)
		abort();
	abort();
}

_Noreturn void preload_trap(void)
{
	preload_die((const char *const[]){ "kmalloc: the heap is damaged and cannot go on.\n", NULL });
}

void preload_on_error(void *ctx, const struct kmalloc_error *error)
{
	char address[DECIMAL_SIZE], nearest[DECIMAL_SIZE], size[DECIMAL_SIZE];
	const char *what = kmalloc_error_name(error->error_class);
	const char *where = preload_hex(address, (uintptr_t)error->address);

	(void)ctx;
	if (!error->nearest)
		preload_die((const char *const[]){
			"kmalloc: ", what, " at ", where,
			", which lies in no memory of the heap; the caller is in the backtrace of this abort.\n",
			NULL });
	if (error->error_class == KMALLOC_DAMAGED_TAG)
		preload_die((const char *const[]){
			"kmalloc: ", what, " at ", where,
			": what lies there was overwritten, probably by an overrun of the object "
			"before it; the caller is in the backtrace of this abort.\n",
			NULL });
	preload_die((const char *const[]){ "kmalloc: ", what, " at ", where,
	                                   error->nearest_is_live ? ": the nearest object has " : ": it lies in ",
	                                   preload_decimal(size, error->nearest_size_bytes),
	                                   error->nearest_is_live ? " bytes" : " free bytes", " at ",
	                                   preload_hex(nearest, (uintptr_t)error->nearest),
	                                   "; the caller is in the backtrace of this abort.\n", NULL });
}
