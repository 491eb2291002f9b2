/* SPDX-License-Identifier: MIT */
/*
 * The trace's file: FOLDER/PROGRAM-PID.trace, FOLDER from the environment's KMALLOC_TRACE or else the current one. It is opened
 * for each write and closed again, so that a program that closes all descriptors, or counts them, is not disturbed. A forked
 * child never writes into its parent's file.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../suite/trace.h"
#include "record.h"

#define BUFFER_SIZE ((size_t)256 << 10)

static uint8_t buffer[BUFFER_SIZE];
static size_t n_used;
static char path[PATH_MAX];
static pid_t owner;
static bool is_broken;

void writer_complain(const char *what, const char *name)
{
	static const char prefix[] = "kmalloc-record: ";
	char line[PATH_MAX + 160] = "";
	size_t length;

	strncat(line, prefix, sizeof(line) - 1);
	strncat(line, what, 120);
	strncat(line, name, PATH_MAX);
	strncat(line, ".\n", 3);
	length = strlen(line);
	/* Nobody can be told when this fails. */
	if (write(STDERR_FILENO, line, length) < 0)
		return;
}

static bool write_all(int descriptor, const uint8_t *from, size_t left)
{
	while (left > 0) {
		ssize_t n = write(descriptor, from, left);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		from += n;
		left -= (size_t)n;
	}
	return true;
}

static void flush(int flags)
{
	int saved = errno, descriptor = -1;

	if (!is_broken && getpid() == owner) {
		descriptor = open(path, O_WRONLY | O_CLOEXEC | flags, 0644);
		if (descriptor < 0 || !write_all(descriptor, buffer, n_used)) {
			is_broken = true;
			writer_complain("recording stopped, because this file cannot be written: ", path);
		}
		if (descriptor >= 0)
			close(descriptor);
	} else {
		is_broken = true;
	}
	n_used = 0;
	errno = saved;
}

/* The number in decimal at `out`; returns its end. */
static char *put_number(char *out, unsigned long number)
{
	char digits[24];
	size_t n = 0;

	do {
		digits[n++] = (char)('0' + number % 10);
		number /= 10;
	} while (number > 0);
	while (n > 0)
		*out++ = digits[--n];
	return out;
}

/* False: the path would be too long. */
static bool make_path(const char *program)
{
	const char *folder = getenv("KMALLOC_TRACE");
	size_t n = 0;

	if (folder == NULL || folder[0] == '\0')
		folder = ".";
	if (folder[0] != '/') {
		/* The program may change its folder before the next write. */
		if (getcwd(path, sizeof(path) / 2) == NULL)
			return false;
		n = strlen(path);
		path[n++] = '/';
	}
	if (n + strlen(folder) + strlen(program) + 40 > sizeof(path))
		return false;
	strcpy(path + n, folder);
	strcat(path, "/");
	strcat(path, program);
	strcat(path, "-");
	strcpy(put_number(path + strlen(path), (unsigned long)owner), ".trace");
	return true;
}

bool writer_begin(void)
{
	const char *program = program_invocation_short_name;
	size_t length = strnlen(program, TRACE_NAME_MAX);

	owner = getpid();
	if (!make_path(program)) {
		writer_complain("nothing is recorded, because the path of the trace is too long in KMALLOC_TRACE=",
		                getenv("KMALLOC_TRACE") != NULL ? getenv("KMALLOC_TRACE") : "");
		return false;
	}
	memcpy(buffer, TRACE_MAGIC, TRACE_MAGIC_SIZE);
	buffer[TRACE_MAGIC_SIZE] = TRACE_VERSION;
	n_used = TRACE_MAGIC_SIZE + 1;
	n_used += trace_put_varint(buffer + n_used, length);
	memcpy(buffer + n_used, program, length);
	n_used += length;
	flush(O_CREAT | O_TRUNC);
	return !is_broken;
}

uint8_t *writer_room(size_t n)
{
	if (n > BUFFER_SIZE - n_used)
		flush(O_APPEND);
	return is_broken ? NULL : buffer + n_used;
}

void writer_advance(size_t n)
{
	n_used += n;
}

void writer_end(void)
{
	flush(O_APPEND);
}
