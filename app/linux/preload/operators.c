/* SPDX-License-Identifier: MIT */
/*
 * C++'s replaceable operators, under their mangled names, so that no C++ compiler and no C++ library is needed. As the standard asks,
 * every form ends in the plain ones, which a program may have replaced by its own: what its new gave must reach its delete.
 *
 * What only a C++ library can do (the new handler, throwing) is looked up when memory is short, in the library that the program uses.
 */
#define _GNU_SOURCE
#include <dlfcn.h>

#include "preload.h"

/* Mangled names: _Zn.. is new, _Zd.. delete; then w or l for one object, a for an array. */
#define OPERATOR(type, name, mangled, parameters) EXPORT type name parameters __asm__(mangled)

struct nothrow; /* std::nothrow_t, passed by reference */

OPERATOR(void *, new_one, "_Znwm", (size_t));
OPERATOR(void *, new_array, "_Znam", (size_t));
OPERATOR(void *, new_one_nothrow, "_ZnwmRKSt9nothrow_t", (size_t, const struct nothrow *));
OPERATOR(void *, new_array_nothrow, "_ZnamRKSt9nothrow_t", (size_t, const struct nothrow *));
OPERATOR(void *, new_one_aligned, "_ZnwmSt11align_val_t", (size_t, size_t));
OPERATOR(void *, new_array_aligned, "_ZnamSt11align_val_t", (size_t, size_t));
OPERATOR(void *, new_one_aligned_nothrow, "_ZnwmSt11align_val_tRKSt9nothrow_t",
         (size_t, size_t, const struct nothrow *));
OPERATOR(void *, new_array_aligned_nothrow, "_ZnamSt11align_val_tRKSt9nothrow_t",
         (size_t, size_t, const struct nothrow *));
OPERATOR(void, delete_one, "_ZdlPv", (void *));
OPERATOR(void, delete_array, "_ZdaPv", (void *));
OPERATOR(void, delete_one_sized, "_ZdlPvm", (void *, size_t));
OPERATOR(void, delete_array_sized, "_ZdaPvm", (void *, size_t));
OPERATOR(void, delete_one_nothrow, "_ZdlPvRKSt9nothrow_t", (void *, const struct nothrow *));
OPERATOR(void, delete_array_nothrow, "_ZdaPvRKSt9nothrow_t", (void *, const struct nothrow *));
OPERATOR(void, delete_one_aligned, "_ZdlPvSt11align_val_t", (void *, size_t));
OPERATOR(void, delete_array_aligned, "_ZdaPvSt11align_val_t", (void *, size_t));
OPERATOR(void, delete_one_sized_aligned, "_ZdlPvmSt11align_val_t", (void *, size_t, size_t));
OPERATOR(void, delete_array_sized_aligned, "_ZdaPvmSt11align_val_t", (void *, size_t, size_t));
OPERATOR(void, delete_one_aligned_nothrow, "_ZdlPvSt11align_val_tRKSt9nothrow_t",
         (void *, size_t, const struct nothrow *));
OPERATOR(void, delete_array_aligned_nothrow, "_ZdaPvSt11align_val_tRKSt9nothrow_t",
         (void *, size_t, const struct nothrow *));

/* Ours, whatever the program replaced. Exported calls (new_one and so on) reach the program's own. */
#define OWN(function, name, mangled) \
	extern __typeof__(function) name __attribute__((alias(mangled), visibility("hidden")))
OWN(new_one, own_new, "_Znwm");
OWN(new_array, own_new_array, "_Znam");
OWN(new_one_aligned, own_new_aligned, "_ZnwmSt11align_val_t");
OWN(new_array_aligned, own_new_array_aligned, "_ZnamSt11align_val_t");
OWN(delete_one, own_delete, "_ZdlPv");
OWN(delete_array, own_delete_array, "_ZdaPv");
OWN(delete_one_aligned, own_delete_aligned, "_ZdlPvSt11align_val_t");
OWN(delete_array_aligned, own_delete_array_aligned, "_ZdaPvSt11align_val_t");

/* What the dynamic linker chose; volatile, because a compiler might believe that a name is its own. */
static __typeof__(new_one) *const volatile chosen_new = new_one;
static __typeof__(new_array) *const volatile chosen_new_array = new_array;
static __typeof__(new_one_aligned) *const volatile chosen_new_aligned = new_one_aligned;
static __typeof__(new_array_aligned) *const volatile chosen_new_array_aligned = new_array_aligned;
static __typeof__(delete_one) *const volatile chosen_delete = delete_one;
static __typeof__(delete_array) *const volatile chosen_delete_array = delete_array;
static __typeof__(delete_one_aligned) *const volatile chosen_delete_aligned = delete_one_aligned;
static __typeof__(delete_array_aligned) *const volatile chosen_delete_array_aligned = delete_array_aligned;

/* ---- the C++ library that the program uses --------------------------------------------------------------------- */

/* A library that was loaded by dlopen (an interpreter's extension in C++) is not in the default scope. */
static void *library_symbol(const char *name, bool is_default_wanted)
{
	static const char *const libraries[] = { "libstdc++.so.6", "libc++.so.1", "libc++abi.so.1" };
	void *symbol = is_default_wanted ? dlsym(RTLD_DEFAULT, name) : NULL;

	for (size_t i = 0; !symbol && i < sizeof(libraries) / sizeof(*libraries); i++) {
		void *library = dlopen(libraries[i], RTLD_LAZY | RTLD_NOLOAD);

		if (!library)
			continue;
		symbol = dlsym(library, name);
		dlclose(library);
	}
	return symbol;
}

/* The library's nothrow form, remembered once it was found: a C++ library is never unloaded. */
static void *library_form(const char *name, void **found)
{
	void *form = __atomic_load_n(found, __ATOMIC_RELAXED);

	if (!form) {
		form = library_symbol(name, false);
		__atomic_store_n(found, form, __ATOMIC_RELAXED);
	}
	return form;
}

/* Tell the program's new handler that memory is short; false: it has none. The handler may throw. */
static bool call_new_handler(void)
{
	void (*(*get_handler)(void))(void) = (void (*(*)(void))(void))library_symbol("_ZSt15get_new_handlerv", true);
	void (*handler)(void) = get_handler ? get_handler() : NULL;

	if (!handler)
		return false;
	handler();
	return true;
}

_Noreturn static void throw_bad_alloc(size_t size_bytes)
{
	/* std::__throw_bad_alloc(), in both libraries. */
	void (*throw_it)(void) = (void (*)(void))library_symbol("_ZSt17__throw_bad_allocv", true);
	char number[DECIMAL_SIZE];

	if (throw_it)
		throw_it();
	preload_die((const char *const[]){
		"kmalloc: there is no memory for operator new of ", preload_decimal(number, size_bytes),
		" bytes, and no C++ library is loaded that could throw std::bad_alloc.\n", NULL });
}

/* ---- new ----------------------------------------------------------------------------------------------------------- */

__attribute__((noinline, cold)) static void *new_again(size_t size_bytes, size_t alignment)
{
	void *object;

	do {
		if (!call_new_handler())
			throw_bad_alloc(size_bytes);
		object = alignment ? preload_alloc_aligned(size_bytes, alignment) : preload_alloc(size_bytes);
	} while (!object);
	return object;
}

void *new_one(size_t size_bytes)
{
	void *object = preload_alloc(size_bytes);

	return LIKELY(object != NULL) ? object : new_again(size_bytes, 0);
}

void *new_one_aligned(size_t size_bytes, size_t alignment)
{
	void *object = preload_alloc_aligned(size_bytes, alignment);

	return LIKELY(object != NULL) ? object : new_again(size_bytes, alignment);
}

void *new_array(size_t size_bytes)
{
	return new_one(size_bytes);
}

void *new_array_aligned(size_t size_bytes, size_t alignment)
{
	return new_one_aligned(size_bytes, alignment);
}

/*
 * The library's own form calls the plain operator (ours, or the program's) and makes NULL of what that, or the new handler, throws. It is
 * needed only when memory is short or the plain operator is not ours. Without a library nobody can have set a handler.
 */
static void *nothrow_by_library(const char *name, void **found, size_t size_bytes, const struct nothrow *nothrow)
{
	__typeof__(new_one_nothrow) *theirs = (__typeof__(new_one_nothrow) *)library_form(name, found);

	return theirs ? theirs(size_bytes, nothrow) : NULL;
}

static void *nothrow_aligned_by_library(const char *name, void **found, size_t size_bytes, size_t alignment,
                                        const struct nothrow *nothrow)
{
	__typeof__(new_one_aligned_nothrow) *theirs = (__typeof__(new_one_aligned_nothrow) *)library_form(name, found);

	return theirs ? theirs(size_bytes, alignment, nothrow) : NULL;
}

void *new_one_nothrow(size_t size_bytes, const struct nothrow *nothrow)
{
	static void *found;
	void *object = chosen_new == own_new ? preload_alloc(size_bytes) : NULL;

	return LIKELY(object != NULL) ? object : nothrow_by_library("_ZnwmRKSt9nothrow_t", &found, size_bytes, nothrow);
}

void *new_one_aligned_nothrow(size_t size_bytes, size_t alignment, const struct nothrow *nothrow)
{
	static void *found;
	bool is_ours = chosen_new_aligned == own_new_aligned;
	void *object = is_ours ? preload_alloc_aligned(size_bytes, alignment) : NULL;

	if (LIKELY(object != NULL))
		return object;
	return nothrow_aligned_by_library("_ZnwmSt11align_val_tRKSt9nothrow_t", &found, size_bytes, alignment, nothrow);
}

void *new_array_nothrow(size_t size_bytes, const struct nothrow *nothrow)
{
	static void *found;

	if (chosen_new_array == own_new_array)
		return new_one_nothrow(size_bytes, nothrow);
	return nothrow_by_library("_ZnamRKSt9nothrow_t", &found, size_bytes, nothrow);
}

void *new_array_aligned_nothrow(size_t size_bytes, size_t alignment, const struct nothrow *nothrow)
{
	static void *found;

	if (chosen_new_array_aligned == own_new_array_aligned)
		return new_one_aligned_nothrow(size_bytes, alignment, nothrow);
	return nothrow_aligned_by_library("_ZnamSt11align_val_tRKSt9nothrow_t", &found, size_bytes, alignment, nothrow);
}

/* ---- delete -------------------------------------------------------------------------------------------------------- */

/* As free: with all of its fast path inside. */
__attribute__((flatten)) void delete_one(void *object)
{
	preload_free(object);
}

void delete_one_aligned(void *object, size_t alignment)
{
	(void)alignment;
	preload_free(object);
}

void delete_array(void *object)
{
	delete_one(object);
}

void delete_array_aligned(void *object, size_t alignment)
{
	delete_one_aligned(object, alignment);
}

/* A wrong size is a bug of the program that does no harm here: it is reported by the hardened build alone. */
void delete_one_sized(void *object, size_t size_bytes)
{
	if (IS_HARDENED && chosen_delete == own_delete)
		preload_free_sized(object, size_bytes);
	else
		delete_one(object);
}

void delete_one_sized_aligned(void *object, size_t size_bytes, size_t alignment)
{
	if (IS_HARDENED && chosen_delete_aligned == own_delete_aligned)
		preload_free_aligned_sized(object, alignment, size_bytes);
	else
		delete_one_aligned(object, alignment);
}

void delete_array_sized(void *object, size_t size_bytes)
{
	if (IS_HARDENED && chosen_delete == own_delete && chosen_delete_array == own_delete_array)
		preload_free_sized(object, size_bytes);
	else
		delete_array(object);
}

void delete_array_sized_aligned(void *object, size_t size_bytes, size_t alignment)
{
	bool is_ours =
		chosen_delete_aligned == own_delete_aligned && chosen_delete_array_aligned == own_delete_array_aligned;

	if (IS_HARDENED && is_ours)
		preload_free_aligned_sized(object, alignment, size_bytes);
	else
		delete_array_aligned(object, alignment);
}

void delete_one_nothrow(void *object, const struct nothrow *nothrow)
{
	(void)nothrow;
	delete_one(object);
}

void delete_array_nothrow(void *object, const struct nothrow *nothrow)
{
	(void)nothrow;
	delete_array(object);
}

void delete_one_aligned_nothrow(void *object, size_t alignment, const struct nothrow *nothrow)
{
	(void)nothrow;
	delete_one_aligned(object, alignment);
}

void delete_array_aligned_nothrow(void *object, size_t alignment, const struct nothrow *nothrow)
{
	(void)nothrow;
	delete_array_aligned(object, alignment);
}
