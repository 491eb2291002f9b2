/* SPDX-License-Identifier: MIT */
/*
 * The keys that terminals send as more than one byte: Esc, then [ or O, then what tells the key.
 */
#ifndef SUITE_KEYS_H
#define SUITE_KEYS_H

#include "host.h"

#define KEYS_NO_BYTE (-1)

/*
 * What Esc and `introducer` ('[' or 'O') begin. next() gives the bytes that follow; KEYS_NO_BYTE: none came soon enough. Takes a
 * whole sequence also when it is no key that is known: then the result is HOST_KEY_NONE.
 */
int keys_sequence(int introducer, int (*next)(void));

#endif
