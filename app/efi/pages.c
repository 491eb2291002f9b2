/* SPDX-License-Identifier: MIT */
/*
 * The page source: EfiLoaderData through AllocatePages. Firmware takes nothing back by itself when a program ends,
 * so each chunk is recorded here and freed, with the count it was got with, at the latest by efi_pages_end(). It
 * never asks for a fixed address.
 */
#include "efi_host.h"

#define MIB ((uint64_t)1 << 20)
/* Some firmware fails or stalls on a request that spans a large part of memory. */
#define MAX_CHUNK_PAGES (1024 * MIB / EFI_PAGE_SIZE)
/* What the firmware keeps for its drivers, file systems and screens; half of what there is where that is too much. */
#define FIRMWARE_SHARE (64 * MIB)

struct held_chunk {
	uint64_t base;
	uint64_t n_pages; /* 0: the slot is free */
};

#define SLOTS_PER_TABLE 255

/* One page of records; as many as are needed, linked. */
struct chunk_table {
	struct chunk_table *next;
	uint64_t n_used;
	struct held_chunk slots[SLOTS_PER_TABLE];
};

_Static_assert(sizeof(struct chunk_table) <= EFI_PAGE_SIZE, "a table of chunks is one page");

static struct chunk_table *tables;
static uint64_t firmware_share;

static EFI_STATUS allocate(uint64_t n_pages, uint64_t max_address, uint64_t *base)
{
	EFI_PHYSICAL_ADDRESS address = max_address;
	EFI_STATUS status;

	/* A 32-bit program can only use what lies below 4 GiB, so there the limit is never "none". */
	status = efi_boot->AllocatePages(max_address == UINT64_MAX ? AllocateAnyPages : AllocateMaxAddress,
	                                 EfiLoaderData, (UINTN)n_pages, &address);
	*base = address;
	return status;
}

bool efi_pages_free(uint64_t base, uint64_t n_pages)
{
	return !EFI_ERROR(efi_boot->FreePages(base, (UINTN)n_pages));
}

bool efi_pages_allocate(uint64_t n_pages, uint64_t max_address, uint64_t *base)
{
	uint64_t last;

	if (EFI_ERROR(allocate(n_pages, max_address, base)))
		return false;
	if (*base == 0) {
		/* Page 0 is legal memory to some firmware. Hold it, so that the next answer is another one. */
		EFI_STATUS status = allocate(n_pages, max_address, base);
		efi_pages_free(0, n_pages);
		if (EFI_ERROR(status))
			return false;
	}
	last = *base + (n_pages * EFI_PAGE_SIZE - 1);
	if (*base != 0 && last > *base && last <= max_address && last <= UINTPTR_MAX)
		return true;
	efi_pages_free(*base, n_pages); /* not what was asked for */
	return false;
}

/* A free slot, in a new table if need be. */
static struct held_chunk *free_slot(struct chunk_table **owner)
{
	struct chunk_table *table = tables;
	uint64_t base;

	while (table && table->n_used == SLOTS_PER_TABLE) {
		table = table->next;
	}
	if (!table) {
		if (!efi_pages_allocate(1, UINTPTR_MAX, &base))
			return NULL;
		table = (struct chunk_table *)(uintptr_t)base;
		*table = (struct chunk_table){ .next = tables };
		tables = table;
	}
	*owner = table;
	for (unsigned i = 0; i < SLOTS_PER_TABLE; i++) {
		if (table->slots[i].n_pages == 0)
			return &table->slots[i];
	}
	return NULL; /* not reached: n_used said that there is one */
}

/* Pages that may be taken now without touching the firmware's share. */
static uint64_t spare_pages(void)
{
	uint64_t free_bytes = efi_memory_free_bytes();
	return free_bytes > firmware_share ? (free_bytes - firmware_share) / EFI_PAGE_SIZE : 0;
}

static bool get_chunk(const struct kpage_request *request, struct kpage_chunk *chunk)
{
	uint64_t spare = spare_pages();
	uint64_t n_pages = request->want_pages;
	struct chunk_table *table;
	struct held_chunk *slot;

	if (request->min_pages == 0 || request->min_pages > spare)
		return false;
	slot = free_slot(&table);
	if (!slot)
		return false;
	if (n_pages > MAX_CHUNK_PAGES)
		n_pages = MAX_CHUNK_PAGES;
	if (n_pages > spare)
		n_pages = spare;
	if (n_pages < request->min_pages)
		n_pages = request->min_pages;
	while (!efi_pages_allocate(n_pages, request->max_address, &slot->base)) {
		if (n_pages == request->min_pages)
			return false;
		n_pages = n_pages / 2 > request->min_pages ? n_pages / 2 : request->min_pages;
	}
	slot->n_pages = n_pages;
	table->n_used++;
	chunk->base = (uintptr_t)slot->base;
	chunk->n_pages = (size_t)n_pages;
	return true;
}

static void put_chunk(const struct kpage_chunk *chunk)
{
	for (struct chunk_table *table = tables; table; table = table->next) {
		for (unsigned i = 0; i < SLOTS_PER_TABLE; i++) {
			struct held_chunk *slot = &table->slots[i];
			if (slot->n_pages == 0 || slot->base != chunk->base)
				continue;
			/* Not all firmware accepts part of an allocation, so what is freed is what was recorded. */
			efi_pages_free(slot->base, slot->n_pages);
			slot->n_pages = 0;
			table->n_used--;
			return;
		}
	}
}

/* ------------------------------------------------------------------------------------------------------------
 * For any processor, and for notification functions: one at a time
 * --------------------------------------------------------------------------------------------------------- */

struct get_errand {
	const struct kpage_request *request;
	struct kpage_chunk *chunk;
	bool is_given;
};

static void do_get(void *argument)
{
	struct get_errand *errand = argument;

	errand->is_given = get_chunk(errand->request, errand->chunk);
}

static bool get(void *ctx, const struct kpage_request *request, struct kpage_chunk *chunk)
{
	struct get_errand errand = { request, chunk, false };

	(void)ctx;
	return efi_errand(do_get, &errand) && errand.is_given;
}

static void do_put(void *argument)
{
	put_chunk(argument);
}

static void put(void *ctx, const struct kpage_chunk *chunk)
{
	struct kpage_chunk copy = *chunk;

	(void)ctx;
	/* What cannot be put back now is put back at the end. */
	(void)efi_errand(do_put, &copy);
}

static uint64_t heap_limit(struct host *host)
{
	(void)host;
	return spare_pages() * EFI_PAGE_SIZE;
}

void efi_pages_begin(struct host *host)
{
	uint64_t free_bytes = efi_memory_free_bytes();

	firmware_share = free_bytes / 2 < FIRMWARE_SHARE ? free_bytes / 2 : FIRMWARE_SHARE;
	host->pages = (struct kpage_source){ .get = get, .put = put };
	host->heap_limit = heap_limit;
}

uint64_t efi_pages_end(void)
{
	uint64_t n_left = 0;

	while (tables) {
		struct chunk_table *table = tables;
		for (unsigned i = 0; i < SLOTS_PER_TABLE; i++) {
			if (table->slots[i].n_pages == 0)
				continue;
			n_left += table->slots[i].n_pages;
			efi_pages_free(table->slots[i].base, table->slots[i].n_pages);
		}
		tables = table->next;
		efi_pages_free((uintptr_t)table, 1);
	}
	return n_left;
}
