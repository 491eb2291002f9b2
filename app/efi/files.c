/* SPDX-License-Identifier: MIT */
/*
 * Files on the volume that the program was loaded from, through the firmware's file system. Only reads; every handle is
 * closed before these functions return.
 */
#include "../suite/text.h"
#include "efi_host.h"

/* Some firmware's disk drivers fail on larger reads. */
#define MAX_READ_BYTES ((uint64_t)1 << 20)
#define MAX_NAME 256

/* What a file system tells of a file, with room for its name. */
union file_info {
	EFI_FILE_INFO info;
	uint8_t bytes[sizeof(EFI_FILE_INFO) + MAX_NAME * sizeof(CHAR16)];
};

static EFI_SIMPLE_FILE_SYSTEM_PROTOCOL *volume;
static char said[200];

static bool refuse(const char **why, const char *name, const char *what)
{
	text_format(said, sizeof(said), "'%.100s' %s", name, what);
	*why = said;
	return false;
}

/* The name in the firmware's form: \ between folders, from the root on. False: it is none. */
static bool to_path(CHAR16 *path, const char *name)
{
	size_t n = 0;

	if (*name != '/' && *name != '\\')
		path[n++] = '\\';
	for (; *name; name++) {
		if (n == MAX_NAME - 1 || *name < ' ' || *name > '~' || *name == ':')
			return false;
		path[n++] = *name == '/' ? '\\' : (CHAR16)*name;
	}
	path[n] = 0;
	return true;
}

/* NULL, and *why. */
static EFI_FILE_PROTOCOL *open(const char *name, const char **why)
{
	EFI_FILE_PROTOCOL *root, *file = NULL;
	CHAR16 path[MAX_NAME];
	EFI_STATUS status;

	if (!to_path(path, name)) {
		refuse(why, name,
		       "is no name of a file on the volume that kmalloc came from, such as \\traces\\ls.trace.");
		return NULL;
	}
	if (!volume || EFI_ERROR(volume->OpenVolume(volume, &root))) {
		refuse(why, name, "cannot be opened: kmalloc was not loaded from a volume with files.");
		return NULL;
	}
	status = root->Open(root, &file, path, EFI_FILE_MODE_READ, 0);
	root->Close(root);
	if (!EFI_ERROR(status))
		return file;
	refuse(why, name,
	       status == EFI_NOT_FOUND ? "is not on the volume that kmalloc came from."
	                               : "cannot be opened on its volume.");
	return NULL;
}

static bool get_info(EFI_FILE_PROTOCOL *file, union file_info *info)
{
	EFI_GUID guid = EFI_FILE_INFO_ID;
	UINTN size = sizeof(*info);

	return !EFI_ERROR(file->GetInfo(file, &guid, &size, info));
}

/* False: a read failed, or the file is shorter than it said. */
static bool read_all(struct host *host, EFI_FILE_PROTOCOL *file, uintptr_t to, uint64_t left)
{
	while (left > 0) {
		UINTN size = (UINTN)(left < MAX_READ_BYTES ? left : MAX_READ_BYTES);

		if (EFI_ERROR(file->Read(file, &size, (VOID *)to)) || size == 0 || size > left)
			return false;
		to += size;
		left -= size;
		host->alive(host, false);
	}
	return true;
}

static bool read_opened(struct host *host, EFI_FILE_PROTOCOL *file, const char *name, struct kpage_chunk *pages,
                        size_t *size_bytes, const char **why)
{
	struct kpage_request request = { .max_address = UINTPTR_MAX };
	union file_info about;

	if (!get_info(file, &about))
		return refuse(why, name, "cannot be read: its volume does not tell its size.");
	if (about.info.Attribute & EFI_FILE_DIRECTORY)
		return refuse(why, name, "is a folder, not a file.");
	if (about.info.FileSize == 0)
		return refuse(why, name, "is empty.");
	if (about.info.FileSize > host->heap_limit(host))
		return refuse(why, name, "is larger than the memory that is free.");
	*size_bytes = (size_t)about.info.FileSize;
	request.min_pages = request.want_pages = (*size_bytes + KMALLOC_PAGE_SIZE - 1) / KMALLOC_PAGE_SIZE;
	if (!host->pages.get(host->pages.ctx, &request, pages))
		return refuse(why, name, "is larger than any free range of memory.");
	if (read_all(host, file, pages->base, *size_bytes))
		return true;
	host->pages.put(host->pages.ctx, pages);
	return refuse(why, name, "could not be read to its end.");
}

static bool read_file(struct host *host, const char *name, struct kpage_chunk *pages, size_t *size_bytes,
                      const char **why)
{
	EFI_FILE_PROTOCOL *file = open(name, why);
	bool is_read;

	if (!file)
		return false;
	is_read = read_opened(host, file, name, pages, size_bytes, why);
	file->Close(file);
	return is_read;
}

static size_t list_files(struct host *host, const char *folder, struct host_file *files, size_t n)
{
	EFI_FILE_PROTOCOL *opened;
	union file_info about;
	const char *why;
	size_t n_found = 0;

	(void)host;
	opened = open(folder, &why);
	if (!opened)
		return 0;
	/* To read a file as a folder would give its bytes. */
	if (get_info(opened, &about) && about.info.Attribute & EFI_FILE_DIRECTORY) {
		while (n_found < n) {
			UINTN size = sizeof(about);

			if (EFI_ERROR(opened->Read(opened, &size, &about)) || size == 0)
				break;
			if (about.info.Attribute & EFI_FILE_DIRECTORY)
				continue;
			efi_to_ascii(files[n_found].name, sizeof(files[0].name), about.info.FileName,
			             sizeof(files[0].name));
			files[n_found++].size_bytes = about.info.FileSize;
		}
	}
	opened->Close(opened);
	return n_found;
}

void efi_files_begin(struct host *host, EFI_HANDLE image)
{
	static const EFI_GUID image_guid = EFI_LOADED_IMAGE_PROTOCOL_GUID;
	static const EFI_GUID volume_guid = EFI_SIMPLE_FILE_SYSTEM_PROTOCOL_GUID;
	const EFI_LOADED_IMAGE *loaded = efi_protocol(image, &image_guid);

	volume = loaded ? efi_protocol(loaded->DeviceHandle, &volume_guid) : NULL;
	host->read_file = read_file;
	host->list_files = list_files;
	host->trace_folder = "\\traces";
}
