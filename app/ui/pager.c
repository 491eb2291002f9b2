/* SPDX-License-Identifier: MIT */
/*
 * A scrolling view: knows how many lines there are and which is at the top; what a line says is the caller's. Must
 * never ask for a line that does not exist.
 */
#include "widgets.h"

#include "../suite/text.h"

static size_t last_top(const struct pager *pager)
{
	return pager->n_lines > pager->rows ? pager->n_lines - pager->rows : 0;
}

const char *pager_keys(const struct ui *ui, size_t n_lines, unsigned rows)
{
	if (n_lines <= rows)
		return "";
	return ui->screen->columns >= 80 ? "   Arrows, PgUp/PgDn scroll" : "   Arrows scroll";
}

void pager_draw(struct ui *ui, struct pager *pager, unsigned row, unsigned rows,
                void (*line)(struct ui *ui, void *ctx, unsigned row, size_t index), void *ctx)
{
	pager->rows = rows;
	if (pager->top > last_top(pager))
		pager->top = last_top(pager);
	for (unsigned i = 0; i < rows && pager->top + i < pager->n_lines; i++)
		line(ui, ctx, row + i, pager->top + i);
	if (pager->n_lines > rows) {
		char note[48];
		text_format(note, sizeof(note), "lines %'zu-%'zu of %'zu", pager->top + 1, pager->top + rows,
		            pager->n_lines);
		frame_note(ui, note);
	}
}

bool pager_key(struct pager *pager, int key)
{
	size_t page = pager->rows > 1 ? pager->rows - 1 : 1, last = last_top(pager);

	switch (key_letter(key)) {
	case HOST_KEY_UP:
	case 'k':
		pager->top -= pager->top > 0;
		return true;
	case HOST_KEY_DOWN:
	case 'j':
		pager->top += pager->top < last;
		return true;
	case HOST_KEY_PAGE_UP:
	case 'b':
		pager->top -= pager->top < page ? pager->top : page;
		return true;
	case HOST_KEY_PAGE_DOWN:
	case ' ':
		pager->top = last - pager->top < page ? last : pager->top + page;
		return true;
	case HOST_KEY_HOME:
		pager->top = 0;
		return true;
	case HOST_KEY_END:
		pager->top = last;
		return true;
	default:
		return false;
	}
}
