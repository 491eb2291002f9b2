/* SPDX-License-Identifier: MIT */
/*
 * The default heap: kmalloc and its relatives for a program that has one heap. Nothing but names.
 */
#include "fast.h"

static struct kheap *default_heap;

void *kmalloc(size_t size_bytes)
{
	struct kheap *heap = default_heap;

	if (UNLIKELY(!heap))
		return NULL;
	if (!HARDENED && LIKELY(size_bytes <= FAST_MAX))
		return fast_alloc(heap, size_bytes, 0);
	return kheap_alloc(heap, size_bytes, 0);
}

void kfree(void *object)
{
	struct kheap *heap = default_heap;

	if (LIKELY(heap != NULL))
		fast_free(heap, object);
}

/* ---- the rest, for size -------------------------------------------------------------------------------------------- */
#include "small.h"

bool kmalloc_init(void *memory, size_t size_bytes, const struct kheap_config *config)
{
	if (default_heap)
		return false;
	default_heap = kheap_create(memory, size_bytes, config);
	return default_heap != NULL;
}

void kmalloc_exit(void)
{
	struct kheap *heap = default_heap;

	default_heap = NULL;
	if (heap)
		kheap_destroy(heap);
}

struct kheap *kmalloc_heap(void)
{
	return default_heap;
}

void *kzalloc(size_t size_bytes)
{
	return kmalloc_flags(size_bytes, KMALLOC_ZERO);
}

void *kcalloc(size_t n, size_t size_bytes)
{
	return default_heap ? kheap_calloc(default_heap, n, size_bytes) : NULL;
}

void *kmalloc_flags(size_t size_bytes, unsigned flags)
{
	return default_heap ? kheap_alloc(default_heap, size_bytes, flags) : NULL;
}

void *kmalloc_aligned(size_t size_bytes, size_t alignment)
{
	return default_heap ? kheap_alloc_aligned(default_heap, size_bytes, alignment, 0) : NULL;
}

void *krealloc(void *object, size_t size_bytes)
{
	return default_heap ? kheap_realloc(default_heap, object, size_bytes) : NULL;
}

void kfree_sized(void *object, size_t size_bytes)
{
	if (default_heap)
		kheap_free_sized(default_heap, object, size_bytes);
}

void kfree_aligned_sized(void *object, size_t alignment, size_t size_bytes)
{
	if (default_heap)
		kheap_free_aligned_sized(default_heap, object, alignment, size_bytes);
}

size_t kusable_size(const void *object)
{
	return default_heap ? kheap_usable_size(default_heap, object) : 0;
}

size_t kgood_size(size_t size_bytes)
{
	size_t gross = size_bytes + GUARD_BYTES;

	if (size_bytes > PTRDIFF_MAX)
		return 0;
	if (HARDENED || size_bytes > PTRDIFF_MAX - PAGE_SIZE)
		return size_bytes;
	if (size_bytes <= FAST_MAX)
		return magazine_object_size((unsigned)magazine_of_size(size_bytes));
	if (gross <= BLOCK_MAX_REQUEST && natural_alignment(size_bytes) < PAGE_SIZE)
		return align_up(size_bytes + BLOCK_HEADER, GRANULE) - BLOCK_HEADER;
	return align_up(size_bytes, PAGE_SIZE);
}

struct kmalloc_result kmalloc_at_least(size_t size_bytes)
{
	return default_heap ? kheap_alloc_at_least(default_heap, size_bytes, 0) : (struct kmalloc_result){ 0 };
}

bool ktry_resize(void *object, size_t size_bytes)
{
	return default_heap && kheap_try_resize(default_heap, object, size_bytes);
}

size_t kmalloc_bulk(size_t size_bytes, size_t n, void *objects[])
{
	return default_heap ? kheap_alloc_bulk(default_heap, size_bytes, 0, n, objects) : 0;
}

void kfree_bulk(size_t n, void *const objects[])
{
	if (default_heap)
		kheap_free_bulk(default_heap, n, objects);
}
