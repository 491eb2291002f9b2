/* SPDX-License-Identifier: MIT */
/*
 * Linux as a host: who it is, its clock, its output. Reads /proc; must never fail because something is missing there.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "../suite/text.h"
#include "linux_host.h"

#define NANOSECONDS_PER_SECOND UINT64_C(1000000000)

static uint64_t ticks(struct host *host)
{
	struct timespec now;

	(void)host;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NANOSECONDS_PER_SECOND + (uint64_t)now.tv_nsec;
}

static void write_text(struct host *host, const char *text)
{
	size_t left = strlen(text);

	(void)host;
	while (left > 0) {
		ssize_t n = write(STDOUT_FILENO, text, left);
		if (n <= 0)
			return; /* nobody listens any more */
		text += n;
		left -= (size_t)n;
	}
}

/* Linux has no watchdog for programs. */
static void alive(struct host *host, bool waiting)
{
	(void)host;
	(void)waiting;
}

static uint64_t entropy(struct host *host)
{
	uint64_t number;

	if (getrandom(&number, sizeof(number), GRND_NONBLOCK) == (ssize_t)sizeof(number))
		return number;
	return ticks(host) ^ (uint64_t)getpid() << 32;
}

/* The value of "key : value" in a line of /proc/cpuinfo, or NULL. */
static const char *value_of(char *line, const char *key)
{
	char *colon = strchr(line, ':');

	if (colon == NULL || strncmp(line, key, strlen(key)) != 0)
		return NULL;
	line[strcspn(line, "\n")] = '\0';
	return colon + 1 + strspn(colon + 1, " ");
}

static void describe_cpu(struct host *host)
{
	FILE *file = fopen("/proc/cpuinfo", "re");
	long n_cpus = sysconf(_SC_NPROCESSORS_ONLN);
	char line[8192]; /* the line of flags is long */
	const char *value;

	host->n_cpus = n_cpus > 0 ? (unsigned)n_cpus : 1;
	text_copy(host->cpu, sizeof(host->cpu), "processor of unknown name");
	if (file == NULL)
		return;
	/* The first processor speaks for all: its block ends with an empty line. */
	while (fgets(line, sizeof(line), file) != NULL && line[0] != '\n') {
		if ((value = value_of(line, "model name")) != NULL)
			text_copy(host->cpu, sizeof(host->cpu), value);
		else if ((value = value_of(line, "flags")) != NULL)
			host->is_virtual_machine = strstr(value, " hypervisor") != NULL;
	}
	fclose(file);
}

static void describe_kernel(struct host *host)
{
	struct utsname name;

	text_copy(host->platform, sizeof(host->platform), "Linux");
	if (uname(&name) != 0)
		return;
	text_copy(host->architecture, sizeof(host->architecture), name.machine);
	text_format(host->firmware, sizeof(host->firmware), "%s %s", name.sysname, name.release);
}

void linux_host_begin(struct host *host)
{
	static struct allocator *const engines[] = { &linux_engine_libc, NULL };

	*host = (struct host){
		.ticks = ticks,
		.ticks_per_second = NANOSECONDS_PER_SECOND,
		.write = write_text,
		.alive = alive,
		.entropy = entropy,
		.engines = engines,
	};
	text_copy(host->clock, sizeof(host->clock), "CLOCK_MONOTONIC");
	describe_kernel(host);
	describe_cpu(host);
	linux_cycles_begin(host);
	linux_parallel_begin(host);
	linux_memory_begin(host);
	linux_pages_begin(host);
	linux_files_begin(host);
	linux_keyboard_begin(host);
}
