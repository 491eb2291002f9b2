/* SPDX-License-Identifier: MIT */
/*
 * Text out, through ConOut alone: the firmware sends it to every screen and serial line it has, and the Shell
 * redirects it to files. write() is sequential, for commands; the terminal is a grid of cells, for the menu. The
 * mode is never changed.
 */
#include "efi_host.h"

/* Characters handed to the firmware at once; on the stack. */
#define BATCH 120

#define DEFAULT_COLUMNS 80
#define DEFAULT_ROWS 25

static const UINTN attributes[STYLE_N] = {
	[STYLE_NORMAL] = EFI_TEXT_ATTR(EFI_LIGHTGRAY, EFI_BLACK),
	[STYLE_DIM] = EFI_TEXT_ATTR(EFI_LIGHTGRAY, EFI_BLACK), /* EDK II's dark grey can hardly be read */
	[STYLE_BRIGHT] = EFI_TEXT_ATTR(EFI_WHITE, EFI_BLACK),
	[STYLE_SELECTED] = EFI_TEXT_ATTR(EFI_BLACK, EFI_LIGHTGRAY),
	[STYLE_GOOD] = EFI_TEXT_ATTR(EFI_LIGHTGREEN, EFI_BLACK),
	[STYLE_BAD] = EFI_TEXT_ATTR(EFI_LIGHTRED, EFI_BLACK),
};

static struct terminal terminal;
static bool is_drawing; /* between begin() and end() */
static SIMPLE_TEXT_OUTPUT_MODE found;
static enum style current_style;

/* Looked up each time: the Shell and the firmware may replace it. NULL when the machine has no console at all. */
static SIMPLE_TEXT_OUTPUT_INTERFACE *output(void)
{
	return efi_system->ConOut;
}

static CHAR16 printable(char c)
{
	return c >= ' ' && c <= '~' ? (CHAR16)c : (CHAR16)'?';
}

static void write_text(struct host *host, const char *text)
{
	SIMPLE_TEXT_OUTPUT_INTERFACE *out = output();
	CHAR16 batch[BATCH + 3];
	size_t n = 0;

	(void)host;
	if (!out)
		return;
	for (; *text; text++) {
		if (*text == '\n')
			batch[n++] = '\r';
		batch[n++] = *text == '\n' || *text == '\t' ? (CHAR16)*text : printable(*text);
		if (n >= BATCH || !text[1]) {
			batch[n] = 0;
			out->OutputString(out, batch);
			n = 0;
		}
	}
}

/* Firmware fails QueryMode for modes that it lists; the smallest screen is then a safe guess. */
static void measure(void)
{
	SIMPLE_TEXT_OUTPUT_INTERFACE *out = output();
	UINTN columns = 0, rows = 0;

	if (!out || !out->Mode || out->Mode->Mode < 0 ||
	    EFI_ERROR(out->QueryMode(out, (UINTN)out->Mode->Mode, &columns, &rows)) || columns == 0 || rows == 0) {
		columns = DEFAULT_COLUMNS;
		rows = DEFAULT_ROWS;
	}
	/*
	 * EDK II gives several consoles one mode: with a screen of 100x31 a serial line of 80x25 says 100x31 too, but refuses the
	 * cursor there, and all texts run into each other.
	 */
	if (out && columns > DEFAULT_COLUMNS && EFI_ERROR(out->SetCursorPosition(out, columns - 1, 0)))
		columns = DEFAULT_COLUMNS;
	if (out && rows > DEFAULT_ROWS && EFI_ERROR(out->SetCursorPosition(out, 0, rows - 1)))
		rows = DEFAULT_ROWS;
	terminal.columns = (unsigned)columns;
	terminal.rows = (unsigned)rows;
}

static void set_style(enum style style)
{
	SIMPLE_TEXT_OUTPUT_INTERFACE *out = output();

	if (!out || style == current_style)
		return;
	out->SetAttribute(out, attributes[style]);
	current_style = style;
}

static void terminal_clear(struct terminal *self)
{
	static CHAR16 space[] = { ' ', 0 };
	SIMPLE_TEXT_OUTPUT_INTERFACE *out = output();

	measure();
	(void)self;
	if (!out)
		return;
	set_style(STYLE_NORMAL);
	/* Some firmware does not clear a screen to which nothing has been written yet. */
	out->OutputString(out, space);
	out->ClearScreen(out);
}

static void terminal_begin(struct terminal *self)
{
	SIMPLE_TEXT_OUTPUT_INTERFACE *out = output();

	if (is_drawing || !out)
		return;
	is_drawing = true;
	if (out->Mode)
		found = *out->Mode;
	else
		found = (SIMPLE_TEXT_OUTPUT_MODE){ .Attribute = EFI_TEXT_ATTR(EFI_LIGHTGRAY, EFI_BLACK),
			                           .CursorVisible = TRUE };
	out->EnableCursor(out, FALSE);
	current_style = STYLE_N;
	terminal_clear(self);
}

static void terminal_end(struct terminal *self)
{
	SIMPLE_TEXT_OUTPUT_INTERFACE *out = output();

	if (!is_drawing || !out)
		return;
	/* What was on the screen before cannot be had back; an empty one with the old colours is the next best. */
	terminal_clear(self);
	out->SetAttribute(out, (UINTN)found.Attribute);
	out->EnableCursor(out, found.CursorVisible);
	is_drawing = false;
}

static void terminal_put(struct terminal *self, unsigned row, unsigned column, enum style style, const char *text,
                         size_t n)
{
	SIMPLE_TEXT_OUTPUT_INTERFACE *out = output();
	CHAR16 batch[BATCH + 1];

	if (!out || row >= self->rows || column >= self->columns)
		return;
	if (n > self->columns - column)
		n = self->columns - column;
	/* The last cell of the screen scrolls it. */
	if (row == self->rows - 1 && column + n == self->columns)
		n--;
	if (n == 0)
		return;
	set_style(style < STYLE_N ? style : STYLE_NORMAL);
	out->SetCursorPosition(out, column, row);
	while (n > 0) {
		size_t now = n < BATCH ? n : BATCH;
		for (size_t i = 0; i < now; i++) {
			batch[i] = printable(text[i]);
		}
		batch[now] = 0;
		out->OutputString(out, batch);
		text += now;
		n -= now;
	}
}

bool efi_console_is_file(void)
{
	SIMPLE_TEXT_OUTPUT_INTERFACE *out = output();
	INT32 column, row;
	bool is_file = false;

	if (!out || !out->Mode)
		return false;
	column = out->Mode->CursorColumn;
	row = out->Mode->CursorRow;
	/* The Shell's console on a file says yes to everything, but its cursor never moves. */
	for (INT32 i = 0; i < 2 && !is_file; i++) {
		out->SetCursorPosition(out, (UINTN)i, (UINTN)row);
		is_file = out->Mode->CursorColumn != i;
	}
	out->SetCursorPosition(out, (UINTN)column, (UINTN)row);
	return is_file;
}

struct terminal *efi_terminal(void)
{
	return &terminal;
}

void efi_console_begin(struct host *host)
{
	terminal.begin = terminal_begin;
	terminal.end = terminal_end;
	terminal.clear = terminal_clear;
	terminal.put = terminal_put;
	measure();
	host->write = write_text;
}

void efi_console_end(void)
{
	terminal_end(&terminal);
}
