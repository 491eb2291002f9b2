/* SPDX-License-Identifier: MIT */
/*
 * The published workloads on malloc, whichever is preloaded: prints nanoseconds of processor time per operation and the peak of
 * resident memory in KiB. scripts/bench.py runs it under several allocators in turn.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "work.h"

static struct timespec begin, end;

void *work_alloc(size_t n)
{
	return malloc(n);
}

void work_free(void *object)
{
	free(object);
}

void *work_resize(void *object, size_t n)
{
	return realloc(object, n);
}

void work_begin(void)
{
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begin);
}

void work_end(void)
{
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
}

/* The peak since this program was started: ru_maxrss would also count what the parent had when it forked. */
static unsigned long peak_kib(void)
{
	FILE *file = fopen("/proc/self/status", "re");
	unsigned long kib = 0;
	char line[256];

	while (file != NULL && fgets(line, sizeof(line), file) != NULL)
		if (strncmp(line, "VmHWM:", 6) == 0)
			kib = strtoul(line + 6, NULL, 10);
	if (file != NULL)
		fclose(file);
	return kib;
}

int main(int argc, char **argv)
{
	double ns;

	if (argc != 2 || !work_named(argv[1])) {
		fprintf(stderr, "time: a workload (a A b c d1 d2 e f g)\n");
		return 1;
	}
	ns = (double)(end.tv_sec - begin.tv_sec) * 1e9 + (double)(end.tv_nsec - begin.tv_nsec);
	printf("%.2f %lu\n", ns / (double)work_operations, peak_kib());
	return 0;
}
