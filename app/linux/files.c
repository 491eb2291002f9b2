/* SPDX-License-Identifier: MIT */
/*
 * Files of Linux for the suite: whole files into pages of the page source, and what is in a folder. Reads only.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../suite/text.h"
#include "linux_host.h"

static char said[200];

static bool refuse(const char **why, const char *format, const char *name, const char *reason)
{
	text_format(said, sizeof(said), format, name, reason);
	*why = said;
	return false;
}

/* Fills the pages; false: the file cannot be read, or has become shorter. */
static bool read_all(int descriptor, void *to, size_t size)
{
	uint8_t *at = to;

	while (size > 0) {
		ssize_t n = read(descriptor, at, size);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		at += n;
		size -= (size_t)n;
	}
	return true;
}

static bool read_opened(struct host *host, int descriptor, const char *name, struct kpage_chunk *pages,
                        size_t *size_bytes, const char **why)
{
	struct kpage_request request = { .max_address = UINTPTR_MAX };
	struct stat about;

	if (fstat(descriptor, &about) != 0 || !S_ISREG(about.st_mode))
		return refuse(why, "'%.100s' is no file%s.", name, "");
	*size_bytes = (size_t)about.st_size;
	request.min_pages = request.want_pages = (*size_bytes + KMALLOC_PAGE_SIZE - 1) / KMALLOC_PAGE_SIZE;
	if (*size_bytes == 0)
		return refuse(why, "'%.100s' is empty%s.", name, "");
	if (!host->pages.get(host->pages.ctx, &request, pages))
		return refuse(why, "'%.100s' is larger than the memory that is free%s.", name, "");
	if (read_all(descriptor, (void *)pages->base, *size_bytes))
		return true;
	host->pages.put(host->pages.ctx, pages);
	return refuse(why, "'%.100s' could not be read to its end%s.", name, "");
}

static bool read_file(struct host *host, const char *name, struct kpage_chunk *pages, size_t *size_bytes,
                      const char **why)
{
	int descriptor = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	bool is_read;

	if (descriptor < 0)
		return refuse(why, "'%.100s' cannot be opened: %.60s.", name, strerror(errno));
	is_read = read_opened(host, descriptor, name, pages, size_bytes, why);
	close(descriptor);
	return is_read;
}

static size_t list_files(struct host *host, const char *folder, struct host_file *files, size_t n)
{
	DIR *stream = opendir(folder);
	struct dirent *entry;
	struct stat about;
	size_t n_found = 0;

	(void)host;
	if (stream == NULL)
		return 0;
	while (n_found < n && (entry = readdir(stream)) != NULL) {
		if (strlen(entry->d_name) >= sizeof(files[0].name) ||
		    fstatat(dirfd(stream), entry->d_name, &about, 0) != 0 || !S_ISREG(about.st_mode))
			continue;
		text_copy(files[n_found].name, sizeof(files[0].name), entry->d_name);
		files[n_found++].size_bytes = (uint64_t)about.st_size;
	}
	closedir(stream);
	return n_found;
}

void linux_files_begin(struct host *host)
{
	host->read_file = read_file;
	host->list_files = list_files;
	host->trace_folder = "esp/traces";
}
