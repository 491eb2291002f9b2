/* SPDX-License-Identifier: MIT */
/*
 * The firmware's memory map: how much is free, and the list for the screen. Its buffer is kept from the beginning
 * to the end, so that looking at the map does not change it. The map is only read here, never trusted to be sorted
 * or free of empty entries.
 */
#include "../suite/text.h"
#include "efi_host.h"

#define FIRST_PAGES 8
/* Getting a larger buffer may itself split ranges; this many more descriptors are made room for. */
#define HEADROOM_DESCRIPTORS 16
#define MAX_ATTEMPTS 8

/* Younger than our headers. */
#define TYPE_PERSISTENT 14
#define TYPE_UNACCEPTED 15
#define TYPE_OEM 0x70000000u
#define TYPE_OS 0x80000000u
#define ATTRIBUTE_SPECIFIC_PURPOSE ((uint64_t)0x40000)

/* A descriptor without its padding; never longer than the firmware's, so the buffer can be rewritten in place. */
struct range {
	uint64_t base, size_bytes, attributes;
	uint32_t type;
};

_Static_assert(sizeof(struct range) <= sizeof(EFI_MEMORY_DESCRIPTOR), "ranges replace descriptors in place");

static uint64_t buffer;
static uint64_t buffer_pages;

static bool grow(uint64_t size_bytes)
{
	uint64_t n_pages = (size_bytes + EFI_PAGE_SIZE - 1) / EFI_PAGE_SIZE;
	uint64_t larger;

	if (!efi_pages_allocate(n_pages, UINTPTR_MAX, &larger))
		return false;
	if (buffer_pages > 0)
		efi_pages_free(buffer, buffer_pages);
	buffer = larger;
	buffer_pages = n_pages;
	return true;
}

/*
 * The map as it is now, in the firmware's order, empty entries left out. Returns how many ranges; 0: the firmware
 * does not tell.
 */
static size_t read_ranges(struct range **ranges)
{
	UINTN size = 0, key, stride = 0;
	UINT32 version;
	EFI_STATUS status = EFI_BUFFER_TOO_SMALL;
	size_t n = 0;

	*ranges = (struct range *)(uintptr_t)buffer;
	for (int attempt = 0; status == EFI_BUFFER_TOO_SMALL; attempt++) {
		size = (UINTN)(buffer_pages * EFI_PAGE_SIZE);
		stride = 0;
		status = efi_boot->GetMemoryMap(&size, (EFI_MEMORY_DESCRIPTOR *)(uintptr_t)buffer, &key, &stride,
		                                &version);
		/* Some firmware does not fill in the descriptor size. */
		if (stride < sizeof(EFI_MEMORY_DESCRIPTOR))
			stride = sizeof(EFI_MEMORY_DESCRIPTOR);
		if (status == EFI_BUFFER_TOO_SMALL &&
		    (attempt == MAX_ATTEMPTS || !grow(size + HEADROOM_DESCRIPTORS * stride)))
			return 0;
		*ranges = (struct range *)(uintptr_t)buffer;
	}
	if (EFI_ERROR(status))
		return 0;
	for (UINTN at = 0; at + sizeof(EFI_MEMORY_DESCRIPTOR) <= size; at += stride) {
		EFI_MEMORY_DESCRIPTOR descriptor;
		__builtin_memcpy(&descriptor, (const char *)(uintptr_t)buffer + at, sizeof(descriptor));
		if (descriptor.NumberOfPages == 0)
			continue;
		(*ranges)[n++] = (struct range){ .base = descriptor.PhysicalStart,
			                         .size_bytes = descriptor.NumberOfPages * EFI_PAGE_SIZE,
			                         .attributes = descriptor.Attribute,
			                         .type = descriptor.Type };
	}
	return n;
}

/* Shell sort: in place, no recursion, and nearly one pass on the nearly sorted maps that most firmware gives. */
static void sort_ranges(struct range *ranges, size_t n)
{
	for (size_t gap = n / 2; gap > 0; gap = gap == 2 ? 1 : gap * 5 / 11) {
		for (size_t i = gap; i < n; i++) {
			struct range range = ranges[i];
			size_t at = i;
			for (; at >= gap && ranges[at - gap].base > range.base; at -= gap) {
				ranges[at] = ranges[at - gap];
			}
			ranges[at] = range;
		}
	}
}

/* Neighbours that differ in nothing are one range to a reader. */
static size_t merge_ranges(struct range *ranges, size_t n)
{
	size_t last = 0;

	if (n == 0)
		return 0;
	for (size_t i = 1; i < n; i++) {
		struct range *before = &ranges[last];
		if (before->base + before->size_bytes == ranges[i].base && before->type == ranges[i].type &&
		    before->attributes == ranges[i].attributes)
			before->size_bytes += ranges[i].size_bytes;
		else
			ranges[++last] = ranges[i];
	}
	return last + 1;
}

/*
 * Memory set aside for a special purpose (high bandwidth, device attached) is not for general use, even where it
 * is listed as free.
 */
static bool is_free(const struct range *range)
{
	return range->type == EfiConventionalMemory && !(range->attributes & ATTRIBUTE_SPECIFIC_PURPOSE);
}

static bool is_ram(const struct range *range)
{
	switch (range->type) {
	case EfiReservedMemoryType:
	case EfiUnusableMemory:
	case EfiMemoryMappedIO:
	case EfiMemoryMappedIOPortSpace:
	case TYPE_PERSISTENT:
		return false;
	default:
		return true;
	}
}

static void type_name(char *out, size_t size, uint32_t type)
{
	static const char names[][28] = {
		[EfiReservedMemoryType] = "reserved",
		[EfiLoaderCode] = "loader code",
		[EfiLoaderData] = "loader data",
		[EfiBootServicesCode] = "boot services code",
		[EfiBootServicesData] = "boot services data",
		[EfiRuntimeServicesCode] = "runtime services code",
		[EfiRuntimeServicesData] = "runtime services data",
		[EfiConventionalMemory] = "conventional",
		[EfiUnusableMemory] = "unusable",
		[EfiACPIReclaimMemory] = "ACPI reclaim",
		[EfiACPIMemoryNVS] = "ACPI NVS",
		[EfiMemoryMappedIO] = "memory-mapped I/O",
		[EfiMemoryMappedIOPortSpace] = "I/O port space",
		[EfiPalCode] = "PAL code",
		[TYPE_PERSISTENT] = "persistent",
		[TYPE_UNACCEPTED] = "unaccepted",
	};

	if (type < sizeof(names) / sizeof(names[0]))
		text_copy(out, size, names[type]);
	else
		text_format(out, size, "%s 0x%x",
		            type >= TYPE_OS    ? "OS type"
		            : type >= TYPE_OEM ? "OEM type"
		                               : "type",
		            type);
}

static void memory(struct host *host, struct host_memory *sums)
{
	struct range *ranges;
	size_t n = read_ranges(&ranges);

	(void)host;
	*sums = (struct host_memory){ 0 };
	for (size_t i = 0; i < n; i++) {
		if (is_ram(&ranges[i]))
			sums->total_bytes += ranges[i].size_bytes;
		if (!is_free(&ranges[i]))
			continue;
		sums->free_bytes += ranges[i].size_bytes;
		if (ranges[i].size_bytes > sums->largest_free_bytes)
			sums->largest_free_bytes = ranges[i].size_bytes;
	}
}

uint64_t efi_memory_free_bytes(void)
{
	struct host_memory sums;

	memory(NULL, &sums);
	return sums.free_bytes;
}

static size_t memory_map(struct host *host, struct host_memory_range *out, size_t n)
{
	struct range *ranges;
	size_t n_ranges = read_ranges(&ranges);

	(void)host;
	sort_ranges(ranges, n_ranges);
	n_ranges = merge_ranges(ranges, n_ranges);
	for (size_t i = 0; i < n_ranges && i < n; i++) {
		out[i] = (struct host_memory_range){ .base = ranges[i].base,
			                             .size_bytes = ranges[i].size_bytes,
			                             .attributes = ranges[i].attributes,
			                             .is_free = is_free(&ranges[i]) };
		type_name(out[i].type, sizeof(out[i].type), ranges[i].type);
	}
	return n_ranges;
}

bool efi_memory_map_begin(struct host *host)
{
	host->memory = memory;
	host->memory_map = memory_map;
	return grow(FIRST_PAGES * EFI_PAGE_SIZE);
}

void efi_memory_map_end(void)
{
	if (buffer_pages > 0)
		efi_pages_free(buffer, buffer_pages);
	buffer_pages = 0;
}
