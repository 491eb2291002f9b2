/* SPDX-License-Identifier: MIT */
/*
 * The engine `pages`: AllocatePages and FreePages, only to be measured beside
 * the others. FreePages must be told how many pages they were, and there is no
 * room to note it, so all that is live has the size that was asked for last.
 */
#include "efi_host.h"

static UINTN n_pages;

static void *allocate(struct allocator *engine, size_t size_bytes)
{
	uint64_t base;

	(void)engine;
	n_pages = (size_bytes + EFI_PAGE_SIZE - 1) / EFI_PAGE_SIZE;
	/* Never address 0. */
	return efi_pages_allocate(n_pages, UINT64_MAX, &base) ? (void *)(uintptr_t)base : NULL;
}

static void release(struct allocator *engine, void *object)
{
	(void)engine;
	efi_pages_free((uintptr_t)object, n_pages);
}

static const struct allocator_bare bare = { allocate, release, NULL, false, true };

struct allocator efi_engine_pages = {
	.name = "pages",
	.description = "the firmware's AllocatePages and FreePages",
	.alignment = EFI_PAGE_SIZE,
	.max_size = SIZE_MAX,
	.bare = &bare,
};
