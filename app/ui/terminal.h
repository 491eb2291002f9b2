/* SPDX-License-Identifier: MIT */
/*
 * A terminal as the screens see it: a grid of ASCII cells. The host implements one (EFI console, ANSI terminal); the
 * screens draw into a shadow (screen.h) and only changed runs of cells reach put().
 */
#ifndef UI_TERMINAL_H
#define UI_TERMINAL_H

#include <stdbool.h>
#include <stddef.h>

/* Colour repeats what a word or mark already says. The host maps these to what it has. */
enum style { STYLE_NORMAL, STYLE_DIM, STYLE_BRIGHT, STYLE_SELECTED, STYLE_GOOD, STYLE_BAD, STYLE_N };

struct terminal {
	void *ctx;
	/* Now; may change between screens, at least 80x24 assumed, smaller is cut. */
	unsigned columns, rows;
	/* Remember cursor, attributes and mode, hide the cursor, clear. */
	void (*begin)(struct terminal *terminal);
	/* Put everything back as begin() found it, cursor on a fresh line. */
	void (*end)(struct terminal *terminal);
	void (*clear)(struct terminal *terminal);
	/* n cells from (row, column) on, within one row. Never called for the last cell of the last row. */
	void (*put)(struct terminal *terminal, unsigned row, unsigned column, enum style style, const char *text,
	            size_t n);
};

#endif
