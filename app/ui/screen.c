/* SPDX-License-Identifier: MIT */
/*
 * The shadow of the terminal. May touch the terminal through its four calls only. Must never write the last cell of
 * the last row (many consoles scroll then), and must never send what the terminal shows already: on a serial line
 * every character takes time.
 */
#include "screen.h"

#include "../suite/text.h"

/* Unchanged cells between two changed ones that are sent again, because moving the cursor costs more. */
#define MAX_GAP 6

static struct cell blank_cell(void)
{
	return (struct cell){ ' ', STYLE_NORMAL };
}

static bool same_cell(struct cell a, struct cell b)
{
	return a.character == b.character && a.style == b.style;
}

static unsigned at_most(unsigned n, unsigned limit)
{
	return n < limit ? n : limit;
}

static void blank(struct cell cells[LAYOUT_MAX_ROWS][LAYOUT_MAX_COLUMNS])
{
	for (unsigned row = 0; row < LAYOUT_MAX_ROWS; row++)
		for (unsigned column = 0; column < LAYOUT_MAX_COLUMNS; column++)
			cells[row][column] = blank_cell();
}

static void adopt_size(struct screen *screen)
{
	struct terminal *terminal = screen->terminal;

	screen->terminal_columns = terminal->columns;
	screen->terminal_rows = terminal->rows;
	screen->columns = at_most(terminal->columns, LAYOUT_FRAME_COLUMNS);
	screen->rows = at_most(terminal->rows, LAYOUT_MAX_ROWS);
	screen->left = (at_most(terminal->columns, LAYOUT_MAX_COLUMNS) - screen->columns) / 2;
}

void screen_init(struct screen *screen, struct terminal *terminal)
{
	screen->terminal = terminal;
	adopt_size(screen);
	blank(screen->wanted);
	blank(screen->shown);
}

bool screen_is_stale(const struct screen *screen)
{
	return screen->terminal->columns != screen->terminal_columns || screen->terminal->rows != screen->terminal_rows;
}

void screen_begin(struct screen *screen)
{
	if (screen_is_stale(screen)) {
		adopt_size(screen);
		screen_invalidate(screen);
	}
	blank(screen->wanted);
}

void screen_invalidate(struct screen *screen)
{
	screen->terminal->clear(screen->terminal);
	blank(screen->shown);
}

/*
 * The end of the run of cells to send that begins at `first`: one style, and no long gap of cells that are right
 * already.
 */
static unsigned run_end(const struct cell *wanted, const struct cell *shown, unsigned first, unsigned n)
{
	unsigned end = first + 1;

	for (unsigned i = end; i < n && i <= end + MAX_GAP; i++) {
		if (wanted[i].style != wanted[first].style)
			break;
		if (!same_cell(wanted[i], shown[i]))
			end = i + 1;
	}
	return end;
}

static void flush_row(struct screen *screen, unsigned row, unsigned n)
{
	struct cell *wanted = screen->wanted[row], *shown = screen->shown[row];
	char text[LAYOUT_MAX_COLUMNS];

	for (unsigned first = 0; first < n;) {
		if (same_cell(wanted[first], shown[first])) {
			first++;
			continue;
		}
		unsigned end = run_end(wanted, shown, first, n);
		for (unsigned i = first; i < end; i++) {
			text[i - first] = wanted[i].character;
			shown[i] = wanted[i];
		}
		screen->terminal->put(screen->terminal, row, first, (enum style)wanted[first].style, text, end - first);
		first = end;
	}
}

void screen_flush(struct screen *screen)
{
	unsigned rows = at_most(screen->terminal_rows, LAYOUT_MAX_ROWS);
	unsigned columns = at_most(screen->terminal_columns, LAYOUT_MAX_COLUMNS);

	for (unsigned row = 0; row < rows; row++) {
		bool has_last_cell = row + 1 == screen->terminal_rows && columns == screen->terminal_columns;
		flush_row(screen, row, has_last_cell && columns > 0 ? columns - 1 : columns);
	}
}

void screen_cell(struct screen *screen, unsigned row, unsigned column, enum style style, char character)
{
	if (row >= screen->rows || column >= screen->columns)
		return;
	/* What came from a firmware or a kernel may hold anything; a control character would move the cursor. */
	if (character < ' ' || character > '~')
		character = '?';
	screen->wanted[row][screen->left + column] = (struct cell){ character, (uint8_t)style };
}

void screen_fill(struct screen *screen, unsigned row, unsigned column, unsigned n, enum style style, char character)
{
	for (unsigned i = 0; i < n && column + i < screen->columns; i++)
		screen_cell(screen, row, column + i, style, character);
}

unsigned screen_text(struct screen *screen, unsigned row, unsigned column, unsigned width, enum style style,
                     const char *text)
{
	if (column >= screen->columns)
		return 0;
	width = at_most(width, screen->columns - column);
	size_t length = text_length(text);
	bool is_cut = length > width;
	unsigned n = is_cut ? width : (unsigned)length;

	for (unsigned i = 0; i < n; i++) {
		bool is_dot = is_cut && width > 6 && i + 3 >= width;
		screen_cell(screen, row, column + i, style, is_dot ? '.' : text[i]);
	}
	return n;
}

unsigned screen_print(struct screen *screen, unsigned row, unsigned column, enum style style, const char *format, ...)
{
	char text[2 * LAYOUT_MAX_COLUMNS];
	va_list args;

	va_start(args, format);
	text_vformat(text, sizeof(text), format, args);
	va_end(args);
	return screen_text(screen, row, column, screen->columns, style, text);
}

void screen_print_right(struct screen *screen, unsigned row, unsigned end, enum style style, const char *format, ...)
{
	char text[LAYOUT_MAX_COLUMNS];
	va_list args;

	va_start(args, format);
	text_vformat(text, sizeof(text), format, args);
	va_end(args);

	unsigned length = (unsigned)text_length(text);
	unsigned column = length < end ? end - length : 0;
	screen_text(screen, row, column, end - column, style, text);
}
