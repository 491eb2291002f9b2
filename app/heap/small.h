/* SPDX-License-Identifier: MIT */
/*
 * What follows its inclusion has nothing that is on a fast path: it is compiled for size, whatever the rest is compiled for.
 */
#ifndef HEAP_SMALL_H
#define HEAP_SMALL_H

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("Os")
#endif

#endif
