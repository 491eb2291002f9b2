/* SPDX-License-Identifier: MIT */
/*
 * The shadow of the terminal: screens write cells here, and screen_flush() sends only the runs that differ from what
 * the terminal shows. Text is clipped to the frame, so a screen can never run over an edge. Knows nothing of what is
 * drawn.
 */
#ifndef UI_SCREEN_H
#define UI_SCREEN_H

#include <stdint.h>

#include "layout.h"
#include "terminal.h"

struct cell {
	char character;
	uint8_t style;
};

struct screen {
	struct terminal *terminal;
	unsigned terminal_columns, terminal_rows; /* as the terminal was at the last screen_begin() */
	unsigned left;                            /* the frame's first column on the terminal */
	unsigned columns, rows;                   /* of the frame */
	struct cell wanted[LAYOUT_MAX_ROWS][LAYOUT_MAX_COLUMNS];
	struct cell shown[LAYOUT_MAX_ROWS][LAYOUT_MAX_COLUMNS];
};

void screen_init(struct screen *screen, struct terminal *terminal);
/* Take on the terminal's size and start from blank cells. Nothing is sent. */
void screen_begin(struct screen *screen);
/* The terminal has another size than the last screen_begin() found. */
bool screen_is_stale(const struct screen *screen);
/* Send what differs. */
void screen_flush(struct screen *screen);
/* What the terminal shows is not known any more: clear it, and send everything at the next flush. */
void screen_invalidate(struct screen *screen);

/* One cell. Outside of the frame: nothing. */
void screen_cell(struct screen *screen, unsigned row, unsigned column, enum style style, char character);
void screen_fill(struct screen *screen, unsigned row, unsigned column, unsigned n, enum style style, char character);
/* Text in at most `width` cells; longer text ends in "...". Returns the cells used. */
unsigned screen_text(struct screen *screen, unsigned row, unsigned column, unsigned width, enum style style,
                     const char *text);
/* Formatted, up to the frame's right edge. */
unsigned screen_print(struct screen *screen, unsigned row, unsigned column, enum style style, const char *format, ...)
	__attribute__((format(printf, 5, 6)));
/* Formatted, its last character in the cell before `end`. */
void screen_print_right(struct screen *screen, unsigned row, unsigned end, enum style style, const char *format, ...)
	__attribute__((format(printf, 5, 6)));

#endif
