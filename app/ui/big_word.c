/* SPDX-License-Identifier: MIT */
/*
 * The outcome in letters that can be read from across the room. ASCII, so that it looks the same on a serial line.
 * Draws, and nothing else.
 */
#include "widgets.h"

#include "../suite/text.h"

struct letter {
	char character;
	const char *rows[LAYOUT_BIG_ROWS];
};

/* The letters of PASS, FAIL and STOPPED. */
static const struct letter letters[] = {
	{ 'A', { " ##### ", "##   ##", "#######", "##   ##", "##   ##" } },
	{ 'D', { "###### ", "##   ##", "##   ##", "##   ##", "###### " } },
	{ 'E', { "#######", "##     ", "#####  ", "##     ", "#######" } },
	{ 'F', { "#######", "##     ", "#####  ", "##     ", "##     " } },
	{ 'I', { "######", "  ##  ", "  ##  ", "  ##  ", "######" } },
	{ 'L', { "##     ", "##     ", "##     ", "##     ", "#######" } },
	{ 'O', { " ##### ", "##   ##", "##   ##", "##   ##", " ##### " } },
	{ 'P', { "###### ", "##   ##", "###### ", "##     ", "##     " } },
	{ 'S', { " ######", "##     ", " ##### ", "     ##", "###### " } },
	{ 'T', { "########", "   ##   ", "   ##   ", "   ##   ", "   ##   " } },
};

#define LETTER_GAP 2

static const struct letter *letter_of(char character)
{
	for (size_t i = 0; i < sizeof(letters) / sizeof(letters[0]); i++)
		if (letters[i].character == character)
			return &letters[i];
	return NULL;
}

unsigned big_word(struct ui *ui, unsigned row, enum style style, const char *word)
{
	unsigned width = 0, column = LAYOUT_TEXT;

	for (const char *at = word; *at != '\0'; at++)
		width += letter_of(*at) != NULL ? (unsigned)text_length(letter_of(*at)->rows[0]) + LETTER_GAP : 0;
	/* It leaves room for what explains it: as much again and the counts. */
	if (column + width > ui->screen->columns || frame_body_rows(ui) < 2 * LAYOUT_BIG_ROWS + 4) {
		screen_text(ui->screen, row, column, ui->screen->columns, style, word);
		return 1;
	}
	for (const char *at = word; *at != '\0'; at++) {
		const struct letter *letter = letter_of(*at);
		if (letter == NULL)
			continue;
		for (unsigned i = 0; i < LAYOUT_BIG_ROWS; i++)
			screen_text(ui->screen, row + i, column, ui->screen->columns, style, letter->rows[i]);
		column += (unsigned)text_length(letter->rows[0]) + LETTER_GAP;
	}
	return LAYOUT_BIG_ROWS;
}
