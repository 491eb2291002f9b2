/* SPDX-License-Identifier: MIT */
/*
 * Frame, keys, bars, wrapped text, questions. Draws into the shadow and reads keys; must never know what a screen is
 * about, and must never leave the watchdog armed while it waits for a human.
 */
#include "widgets.h"

#include "../suite/text.h"

void frame_begin(struct ui *ui, const char *name, const char *parameter, const char *keys)
{
	struct screen *screen = ui->screen;

	screen_begin(screen);
	unsigned columns = screen->columns, last = screen->rows > 0 ? screen->rows - 1 : 0;
	unsigned used = LAYOUT_MARGIN + screen_print(screen, LAYOUT_TITLE_ROW, LAYOUT_MARGIN, STYLE_BRIGHT,
	                                             "kmalloc %s %s", KMALLOC_VERSION, kmalloc_build());
	unsigned length = (unsigned)text_length(name), column = (columns > length ? columns - length : 0) / 2;
	if (column < used + 2)
		column = used + 2;
	used = column + screen_text(screen, LAYOUT_TITLE_ROW, column, columns, STYLE_BRIGHT, name);

	length = (unsigned)text_length(parameter);
	if (used + 2 + length + LAYOUT_MARGIN <= columns)
		screen_print_right(screen, LAYOUT_TITLE_ROW, columns - LAYOUT_MARGIN, STYLE_NORMAL, "%s", parameter);
	else
		screen_text(screen, LAYOUT_TITLE_ROW, used + 2, columns, STYLE_NORMAL, parameter);

	screen_fill(screen, LAYOUT_TOP_RULE_ROW, 0, columns, STYLE_DIM, '-');
	if (last >= LAYOUT_BODY_ROW + 1) {
		screen_fill(screen, last - 1, 0, columns, STYLE_DIM, '-');
		screen_text(screen, last, LAYOUT_MARGIN, columns, STYLE_NORMAL, keys);
	}
}

unsigned frame_body_end(const struct ui *ui)
{
	unsigned rows = ui->screen->rows;
	return rows > LAYOUT_BODY_ROW + LAYOUT_ROWS_BELOW_BODY ? rows - LAYOUT_ROWS_BELOW_BODY : LAYOUT_BODY_ROW;
}

unsigned frame_body_rows(const struct ui *ui)
{
	return frame_body_end(ui) - LAYOUT_BODY_ROW;
}

void frame_note(struct ui *ui, const char *note)
{
	struct screen *screen = ui->screen;
	unsigned length = (unsigned)text_length(note) + 2;

	if (screen->rows <= LAYOUT_BODY_ROW + LAYOUT_ROWS_BELOW_BODY || screen->columns <= length + LAYOUT_MARGIN)
		return;
	/*
	 * Two blanks before it cut a key line that reaches so far. One cell is left over: the last cell is never
	 * written.
	 */
	screen_print_right(screen, screen->rows - 1, screen->columns - LAYOUT_MARGIN, STYLE_NORMAL, "  %s", note);
}

static int take_key(struct ui *ui, uint32_t timeout_ms)
{
	int key = ui->host->read_key(ui->host, timeout_ms);

	if (key == KEY_REDRAW)
		screen_invalidate(ui->screen);
	return key;
}

int wait_key(struct ui *ui)
{
	ui->host->alive(ui->host, true);
	return take_key(ui, HOST_WAIT_FOREVER);
}

int poll_key(struct ui *ui)
{
	ui->host->alive(ui->host, false);
	return take_key(ui, 0);
}

int key_letter(int key)
{
	return key >= 'A' && key <= 'Z' ? key - 'A' + 'a' : key;
}

unsigned proportion(uint64_t part, uint64_t whole, unsigned scale)
{
	if (whole == 0)
		return 0;
	if (part >= whole)
		return scale;
	while (whole > UINT64_MAX >> 16) {
		whole >>= 1;
		part >>= 1;
	}
	return (unsigned)(part * scale / whole);
}

void bar(struct ui *ui, unsigned row, unsigned column, unsigned width, uint64_t part, uint64_t whole)
{
	if (width < 3)
		return;
	unsigned cells = width - 2, full = proportion(part, whole, cells);

	screen_cell(ui->screen, row, column, STYLE_NORMAL, '[');
	screen_fill(ui->screen, row, column + 1, full, STYLE_BRIGHT, '#');
	screen_fill(ui->screen, row, column + 1 + full, cells - full, STYLE_DIM, '.');
	screen_cell(ui->screen, row, column + width - 1, STYLE_NORMAL, ']');
}

/* How much of `text` goes on a line of `width`: up to the last blank that leaves it whole, or all of it cut hard. */
static unsigned line_length(const char *text, unsigned width)
{
	unsigned last_blank = 0, n = 0;

	while (text[n] != '\0' && text[n] != '\n' && n < width) {
		if (text[n] == ' ')
			last_blank = n;
		n++;
	}
	if (text[n] == '\0' || text[n] == '\n' || text[n] == ' ' || last_blank == 0)
		return n;
	return last_blank;
}

bool wrapped_line(const char *text, unsigned width, unsigned index, const char **start, unsigned *length)
{
	if (width == 0)
		return false;
	for (;;) {
		unsigned n = line_length(text, width);
		if (*text == '\0')
			return false;
		if (index == 0) {
			*start = text;
			*length = n;
			return true;
		}
		index--;
		text += n;
		if (*text == '\n')
			text++;
		else
			while (*text == ' ')
				text++;
	}
}

unsigned wrapped_lines(const char *text, unsigned width)
{
	const char *start;
	unsigned length, n = 0;

	while (wrapped_line(text, width, n, &start, &length))
		n++;
	return n;
}

unsigned paragraph(struct ui *ui, unsigned row, unsigned column, unsigned max_rows, enum style style, const char *text)
{
	unsigned columns = ui->screen->columns;
	unsigned width = columns > column + LAYOUT_MARGIN ? columns - column - LAYOUT_MARGIN : 0;
	const char *start;
	unsigned length, n = 0;

	for (; n < max_rows && wrapped_line(text, width, n, &start, &length); n++)
		for (unsigned i = 0; i < length; i++)
			screen_cell(ui->screen, row + n, column + i, style, start[i]);
	return n;
}

static void draw_box(struct ui *ui, const char *question, const char *detail, bool yes)
{
	struct screen *screen = ui->screen;
	unsigned width = screen->columns < LAYOUT_BOX_COLUMNS ? screen->columns : LAYOUT_BOX_COLUMNS;
	unsigned height = screen->rows < LAYOUT_BOX_ROWS ? screen->rows : LAYOUT_BOX_ROWS;
	unsigned left = (screen->columns - width) / 2, top = (screen->rows - height) / 2;

	for (unsigned row = 0; row < LAYOUT_BOX_ROWS; row++) {
		bool is_edge = row == 0 || row == LAYOUT_BOX_ROWS - 1;
		screen_cell(screen, top + row, left, STYLE_BRIGHT, is_edge ? '+' : '|');
		screen_fill(screen, top + row, left + 1, width - 2, STYLE_BRIGHT, is_edge ? '-' : ' ');
		screen_cell(screen, top + row, left + width - 1, STYLE_BRIGHT, is_edge ? '+' : '|');
	}
	screen_text(screen, top + 1, left + 3, width - 6, STYLE_BRIGHT, question);
	screen_text(screen, top + 2, left + 3, width - 6, STYLE_NORMAL, detail);
	screen_text(screen, top + 4, left + 3, 8, yes ? STYLE_SELECTED : STYLE_NORMAL, yes ? "> Y Yes" : "  Y Yes");
	screen_text(screen, top + 4, left + 14, 8, yes ? STYLE_NORMAL : STYLE_SELECTED, yes ? "  N No" : "> N No");
	screen_fill(screen, screen->rows - 1, 0, screen->columns, STYLE_NORMAL, ' ');
	screen_text(screen, screen->rows - 1, LAYOUT_MARGIN, screen->columns, STYLE_NORMAL,
	            "Y yes   N or Esc no   Left/Right, Enter choose");
	screen_flush(screen);
}

bool ask(struct ui *ui, const char *question, const char *detail)
{
	bool yes = false;

	if (ui->screen->rows == 0 || ui->screen->columns < 8)
		return false;
	for (;;) {
		if (screen_is_stale(ui->screen))
			screen_begin(ui->screen);
		draw_box(ui, question, detail, yes);
		switch (key_letter(wait_key(ui))) {
		case 'y':
			return true;
		case 'n':
		case HOST_KEY_ESC:
			return false;
		case HOST_KEY_ENTER:
			return yes;
		case HOST_KEY_LEFT:
		case HOST_KEY_RIGHT:
		case HOST_KEY_UP:
		case HOST_KEY_DOWN:
		case HOST_KEY_TAB:
			yes = !yes;
			break;
		default:
			break;
		}
	}
}

char *duration(char *out, size_t size, uint64_t milliseconds)
{
	uint64_t seconds = milliseconds / 1000;

	if (milliseconds < 10000 && milliseconds % 1000 != 0)
		text_format(out, size, "%u.%u s", (unsigned)seconds, (unsigned)(milliseconds / 100 % 10));
	else if (seconds < 120)
		text_format(out, size, "%u s", (unsigned)seconds);
	else if (seconds < 3600)
		text_format(out, size, "%u min %02u s", (unsigned)(seconds / 60), (unsigned)(seconds % 60));
	else
		text_format(out, size, "%'ju h %02u min", (uintmax_t)(seconds / 3600), (unsigned)(seconds / 60 % 60));
	return out;
}

uint64_t four_digits(uint64_t n)
{
	uint64_t unit = 1;

	while (n / unit > 9999)
		unit *= 10;
	return n - n % unit;
}
