/* SPDX-License-Identifier: MIT */
/*
 * Memory as Linux tells of it: the machine's from /proc/meminfo, and this process's own map, because the machine's is
 * the kernel's secret. Reads only.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "../suite/text.h"
#include "linux_host.h"

/* A figure of /proc/meminfo in bytes, 0 when it is not there. */
static uint64_t meminfo(const char *name)
{
	FILE *file = fopen("/proc/meminfo", "re");
	size_t length = strlen(name);
	uint64_t kib = 0;
	char line[128];

	if (file == NULL)
		return 0;
	while (fgets(line, sizeof(line), file) != NULL)
		if (strncmp(line, name, length) == 0 && line[length] == ':' &&
		    sscanf(line + length + 1, "%" SCNu64, &kib) == 1)
			break;
	fclose(file);
	return kib * 1024;
}

uint64_t linux_memory_available(void)
{
	return meminfo("MemAvailable");
}

static void memory(struct host *host, struct host_memory *memory)
{
	(void)host;
	memory->total_bytes = meminfo("MemTotal");
	memory->free_bytes = linux_memory_available();
	/* Pages are made contiguous by the processor's tables, so the largest range is all there is. */
	memory->largest_free_bytes = memory->free_bytes;
}

/* What a line of the map says in words of the field. */
static void name_type(char *type, size_t size, const char *permissions, const char *path)
{
	const char *file = strrchr(path, '/');

	if (path[0] == '\0')
		text_copy(type, size, permissions[0] == '-' ? "reserved" : "anonymous");
	else if (path[0] == '[')
		text_format(type, size, "%.*s", (int)strcspn(path + 1, "]"), path + 1);
	else
		text_format(type, size, "%s", file != NULL ? file + 1 : path);
}

static bool parse_range(const char *line, struct host_memory_range *range)
{
	uint64_t first, end;
	char permissions[8] = "", path[512] = "";

	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s %*s %*s %*s %511[^\n]", &first, &end, permissions, path) < 3 ||
	    end < first)
		return false;
	*range = (struct host_memory_range){ .base = first, .size_bytes = end - first };
	name_type(range->type, sizeof(range->type), permissions, path);
	return true;
}

static size_t memory_map(struct host *host, struct host_memory_range *ranges, size_t n)
{
	FILE *file = fopen("/proc/self/maps", "re");
	struct host_memory_range range;
	size_t n_ranges = 0;
	char line[1024];

	(void)host;
	if (file == NULL)
		return 0;
	while (fgets(line, sizeof(line), file) != NULL) {
		if (!parse_range(line, &range))
			continue;
		if (n_ranges < n)
			ranges[n_ranges] = range;
		n_ranges++;
	}
	fclose(file);
	return n_ranges;
}

void linux_memory_begin(struct host *host)
{
	host->memory = memory;
	host->memory_map = memory_map;
}
