/* SPDX-License-Identifier: MIT */
/*
 * libkmalloc.so: the heap in place of the C library's malloc, for programs that were built without knowing of it
 * (LD_PRELOAD=build/linux/libkmalloc.so program).
 *
 *   malloc.c     malloc and its relatives
 *   operators.c  C++'s operators new and delete
 *   pages.c      the page source: mmap and munmap
 *   ahead.c      pages that will be used next come in batches
 *   purge.c      pages that stay free go back to the system
 *   fork.c       fork() while other threads are inside the heap
 *   limits.c     limits of address space that are set while the program runs
 *   deepbind.c   libraries that would go past this one to the C library's malloc
 *   report.c     misuse: one line on the standard error output, then abort
 *
 * Everything here may run before the constructors of any library, from inside the dynamic linker, and after the destructors. So
 * nothing may call a function that allocates (stdio does), needs a constructor, or finds thread-local state by a call.
 */
#ifndef PRELOAD_H
#define PRELOAD_H

#include <kmalloc.h>

/* Everything else is hidden. */
#define EXPORT __attribute__((visibility("default")))

#define LIKELY(condition) __builtin_expect(!!(condition), 1)
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)

#ifdef KMALLOC_HARDENED
#define IS_HARDENED 1
#else
#define IS_HARDENED 0
#endif

/* malloc.c: no errno here; NULL is want of memory. */
/* NULL: nothing was allocated yet. */
struct kheap *preload_heap(void);
/* Every free is to look whether there is more to give back, or only those again that no cache takes. */
void preload_watch_frees(bool watches);
void *preload_alloc(size_t size_bytes);
void *preload_alloc_aligned(size_t size_bytes, size_t alignment);
void preload_free(void *object);
void preload_free_sized(void *object, size_t size_bytes);
void preload_free_aligned_sized(void *object, size_t alignment, size_t size_bytes);

/* pages.c */
struct kpage_source preload_pages(void);
/* In the child of a process whose threads may have been inside the source; the heap's lock is free. */
void preload_pages_after_fork(struct kheap *heap);
/* The process may have no more than so much address space from now on: give back what is reserved and not the heap's. */
void preload_pages_limit(struct kheap *heap, size_t limit_bytes);
/* Bytes that are mapped now. */
size_t preload_mapped_bytes(void);
/* The source could not give so many bytes; false: nothing can be done about it. With no lock held. */
bool preload_give_back(void *ctx, size_t size_bytes);
/* Give back to the system the chunks that were kept for the next get; false: there was none. */
bool preload_unkeep(void);
/* Give the whole pages inside [start, start + size) back; they read as zero from now on. False: they could not be. */
bool preload_discard(void *start, size_t size_bytes);
/*
 * Whole pages of the heap change places without being copied: what was at `to` is lost, `from` reads as zero. How many bytes, from the first on;
 * the rest is as it was.
 */
size_t preload_move_pages(void *to, void *from, size_t size_bytes);

/* ahead.c */
void preload_ahead_begin(void);
/* The heap gets, or loses, a chunk of pages that were never touched. */
void preload_ahead_chunk(uintptr_t base, size_t size_bytes);
void preload_ahead_forget(uintptr_t base);
/* An object was allocated that no cache had; size_bytes is not 0. With no lock held. */
void preload_ahead(const void *object, size_t size_bytes);

/* purge.c */
/* The heap gets, or loses, a chunk of pages that were never touched, or are not any more. */
void preload_note_mapped(size_t size_bytes);
void preload_note_unmapped(size_t size_bytes);
/* Give all that is free back to the system, whole pages inside free blocks, too; false: nothing was. O(pages + cached objects). */
bool preload_purge(struct kheap *heap);
/* The same when it is due and worth it; to be called now and then, with no lock held. */
void preload_look(struct kheap *heap);
/* Whoever did so is gone. */
void preload_look_end(void);
/* A large object was taken, or freed. */
void preload_note_moved(size_t size_bytes);
/* And here it was taken. */
void preload_note_taken(void);
/* May the pages of a large object that is being freed go back now? Not if what went back was needed again lately. */
bool preload_may_release(struct kheap *heap, size_t size_bytes);

/* fork.c: keep fork() safe from now on. */
void preload_fork_begin(struct kheap *the_heap);
/* Not in the child of vfork(), or of a system call: there the heap is another process's, or as it may be in the middle of a change. */
bool preload_is_own_process(void);

/* report.c */
void preload_on_error(void *ctx, const struct kmalloc_error *error);
/* Write text, then stop the program. `text` ends with NULL. */
_Noreturn void preload_die(const char *const text[]);
#define DECIMAL_SIZE 24
/* Write a number into `buffer` (DECIMAL_SIZE bytes); returns where it begins. */
const char *preload_decimal(char *buffer, uint64_t number);
const char *preload_hex(char *buffer, uintptr_t number);

#endif
