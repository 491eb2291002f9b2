/* SPDX-License-Identifier: MIT */
/*
 * The four functions that a compiler may call without being asked. Copying and filling are one string instruction
 * each: they are fast on every processor of the last ten years, and no compiler turns them back into a call of
 * themselves.
 */
#include <stddef.h>

void *memcpy(void *restrict to, const void *restrict from, size_t n);
void *memmove(void *to, const void *from, size_t n);
void *memset(void *to, int value, size_t n);
int memcmp(const void *a, const void *b, size_t n);

void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
	void *end = to;
	__asm__ volatile("rep movsb" : "+D"(end), "+S"(from), "+c"(n) : : "memory");
	return to;
}

void *memmove(void *to, const void *from, size_t n)
{
	unsigned char *last = (unsigned char *)to + n;
	const unsigned char *source = (const unsigned char *)from + n;

	/* Backwards only when the end of `from` would be overwritten before it is read. */
	if ((size_t)((unsigned char *)to - (const unsigned char *)from) >= n)
		return memcpy(to, from, n);
	while (n-- > 0) {
		*(volatile unsigned char *)--last = *--source;
	}
	return to;
}

void *memset(void *to, int value, size_t n)
{
	void *end = to;
	__asm__ volatile("rep stosb" : "+D"(end), "+c"(n) : "a"(value) : "memory");
	return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const volatile unsigned char *left = a;
	const volatile unsigned char *right = b;

	for (size_t i = 0; i < n; i++) {
		unsigned char l = left[i], r = right[i];
		if (l != r)
			return l < r ? -1 : 1;
	}
	return 0;
}
