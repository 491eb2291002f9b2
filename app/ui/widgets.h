/* SPDX-License-Identifier: MIT */
/*
 * The parts that screens are made of. Each draws into the shadow; those that ask something wait for the answer. They
 * know text and cells, not what a screen is about.
 */
#ifndef UI_WIDGETS_H
#define UI_WIDGETS_H

#include "state.h"

/* Ctrl-L, and what a host returns when the terminal's size has changed: draw everything again. */
#define KEY_REDRAW 12

/* Start a screen: title line, both rules and the key line; the body is blank. */
void frame_begin(struct ui *ui, const char *name, const char *parameter, const char *keys);
/* Rows of the body; 0 on a terminal of four rows. */
unsigned frame_body_rows(const struct ui *ui);
/* The first row below the body. */
unsigned frame_body_end(const struct ui *ui);
/* At the right end of the key line. */
void frame_note(struct ui *ui, const char *note);

/*
 * The next key, with the watchdog off: a human is reading. KEY_REDRAW is handled as far as the terminal goes; the
 * caller draws again.
 */
int wait_key(struct ui *ui);
/* A key if there is one, while work runs. */
int poll_key(struct ui *ui);
/* Lower case of a letter, anything else as it is. */
int key_letter(int key);

/* "[#####.....]" in `width` cells. */
void bar(struct ui *ui, unsigned row, unsigned column, unsigned width, uint64_t part, uint64_t whole);
/* part * scale / whole without overflow, at most scale; 0 when whole is 0. scale up to 2^16. */
unsigned proportion(uint64_t part, uint64_t whole, unsigned scale);

/*
 * One line of `text` broken at blanks into lines of at most `width`: its start and length. False when there is no
 * such line.
 */
bool wrapped_line(const char *text, unsigned width, unsigned index, const char **start, unsigned *length);
unsigned wrapped_lines(const char *text, unsigned width);
/* Wrapped text in at most max_rows rows; returns the rows used. */
unsigned paragraph(struct ui *ui, unsigned row, unsigned column, unsigned max_rows, enum style style, const char *text);

/* PASS, FAIL or STOPPED in letters five rows high; returns the rows used (fewer on a small terminal). */
unsigned big_word(struct ui *ui, unsigned row, enum style style, const char *word);

/* A question in a box over what is shown. The answer is No for Esc. The caller draws its screen again. */
bool ask(struct ui *ui, const char *question, const char *detail);

/* "2.3 s", "86 s", "3 min 05 s", "2 h 03 min". */
char *duration(char *out, size_t size, uint64_t milliseconds);
/* n with all but its first four digits zero: no more than four digits change at once while a run is watched. */
uint64_t four_digits(uint64_t n);

/* A scrolling view of n_lines lines. */
struct pager {
	size_t n_lines, top;
	unsigned rows; /* as last drawn */
};

void pager_draw(struct ui *ui, struct pager *pager, unsigned row, unsigned rows,
                void (*line)(struct ui *ui, void *ctx, unsigned row, size_t index), void *ctx);
/* True when the key scrolls. */
bool pager_key(struct pager *pager, int key);
/* What the key line says of scrolling, to follow the other keys: "" when everything fits. */
const char *pager_keys(const struct ui *ui, size_t n_lines, unsigned rows);

#endif
