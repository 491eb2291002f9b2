/* SPDX-License-Identifier: MIT */
/*
 * Decodes what terminals send for the keys that are no characters: the sequences of xterm, the Linux console, VT220 and rxvt.
 * Reads only what next() gives, and never more than one sequence can be long.
 */
#include "keys.h"

/* Longer than any key's sequence. */
#define SEQUENCE_MAX 16
#define NUMBER_MAX 99

/* The last byte of a sequence, and the number before it. */
static int decode_final(int final, unsigned number)
{
	switch (final) {
	case 'A':
		return HOST_KEY_UP;
	case 'B':
		return HOST_KEY_DOWN;
	case 'C':
		return HOST_KEY_RIGHT;
	case 'D':
		return HOST_KEY_LEFT;
	case 'H':
		return HOST_KEY_HOME;
	case 'F':
		return HOST_KEY_END;
	case '~':
		break;
	default:
		return HOST_KEY_NONE;
	}
	switch (number) {
	case 1:
	case 7:
		return HOST_KEY_HOME;
	case 3: /* Delete */
		return HOST_KEY_BACKSPACE;
	case 4:
	case 8:
		return HOST_KEY_END;
	case 5:
		return HOST_KEY_PAGE_UP;
	case 6:
		return HOST_KEY_PAGE_DOWN;
	default:
		return HOST_KEY_NONE;
	}
}

int keys_sequence(int introducer, int (*next)(void))
{
	unsigned number = 0;
	bool is_first_number = true;

	if (introducer == 'O')
		return decode_final(next(), 0);
	for (int i = 0; i < SEQUENCE_MAX; i++) {
		int byte = next();

		if (i == 0 && byte == '[') { /* the Linux console's function keys: one letter more */
			next();
			return HOST_KEY_NONE;
		}
		if (byte == KEYS_NO_BYTE || (byte >= '@' && byte <= '~'))
			return decode_final(byte, number);
		if (byte < '0' || byte > '9')
			is_first_number = false; /* modifiers follow */
		else if (is_first_number && number <= NUMBER_MAX)
			number = number * 10 + (unsigned)(byte - '0');
	}
	return HOST_KEY_NONE;
}
