/* SPDX-License-Identifier: MIT */
/*
 * The machine's memory map in the host's own words: totals by type, then every range. Only reads; takes no memory,
 * which would change the map that it shows.
 */
#include "../suite/text.h"
#include "widgets.h"

/*
 * Firmware that has handed out many pages one by one can have thousands of ranges; those beyond this are counted, not
 * shown.
 */
#define MAX_RANGES 1536
#define MAX_TYPES 32

struct type_total {
	const char *type;
	uint64_t size_bytes;
	size_t n_ranges;
	bool is_free;
};

struct map {
	struct host_memory_range ranges[MAX_RANGES];
	size_t n_ranges, n_beyond; /* shown; not shown */
	struct type_total totals[MAX_TYPES];
	size_t n_totals;
	struct pager pager;
};

/*
 * Attribute bits that are worth a mark: what the range may be used for, not how it may be cached. The names are
 * UEFI's.
 */
static const struct {
	uint64_t bit;
	const char *mark;
} marks[] = {
	{ UINT64_C(1) << 63, "RT" }, /* the firmware uses it at run time */
	{ UINT64_C(1) << 16, "MR" }, /* more reliable */
	{ UINT64_C(1) << 18, "SP" }, /* specific purpose: not for everyone */
	{ UINT64_C(1) << 17, "RO" }, { UINT64_C(1) << 13, "RP" }, { UINT64_C(1) << 14, "XP" },
};

/* Lines: a heading, the totals, a blank line, a heading, the ranges, a line for what is not shown. */
#define TOTALS_LINE 1
#define LINES_BETWEEN 2

static void add_total(struct map *map, const struct host_memory_range *range)
{
	size_t i = 0;

	while (i < map->n_totals && text_compare(map->totals[i].type, range->type) != 0)
		i++;
	if (i == MAX_TYPES)
		return;
	if (i == map->n_totals)
		map->totals[map->n_totals++] = (struct type_total){ .type = range->type, .is_free = range->is_free };
	map->totals[i].size_bytes += range->size_bytes;
	map->totals[i].n_ranges++;
}

static void read_map(struct ui *ui, struct map *map)
{
	size_t n = ui->host->memory_map(ui->host, map->ranges, MAX_RANGES);

	map->n_ranges = n < MAX_RANGES ? n : MAX_RANGES;
	map->n_beyond = n - map->n_ranges;
	map->n_totals = 0;
	for (size_t i = 0; i < map->n_ranges; i++)
		add_total(map, &map->ranges[i]);
	map->pager.n_lines = TOTALS_LINE + map->n_totals + LINES_BETWEEN + map->n_ranges + (map->n_beyond > 0);
}

static void draw_total(struct ui *ui, unsigned row, const struct type_total *total)
{
	struct screen *screen = ui->screen;
	char text[16];

	screen_print_right(screen, row, LAYOUT_MAP_COUNT_END, STYLE_NORMAL, "%'zu", total->n_ranges);
	screen_print_right(screen, row, LAYOUT_MAP_SIZE_END, STYLE_BRIGHT, "%s",
	                   text_bytes(text, sizeof(text), total->size_bytes));
	screen_print(screen, row, LAYOUT_MAP_TYPE, total->is_free ? STYLE_GOOD : STYLE_NORMAL, "%s%s", total->type,
	             total->is_free ? " (free)" : "");
}

static void draw_range(struct ui *ui, unsigned row, const struct host_memory_range *range)
{
	struct screen *screen = ui->screen;
	uint64_t last = range->size_bytes > 0 ? range->base + range->size_bytes - 1 : range->base;
	unsigned column = LAYOUT_MAP_MARKS;
	char text[16];

	screen_print(screen, row, LAYOUT_TEXT, STYLE_NORMAL, "%016jx", (uintmax_t)range->base);
	screen_print(screen, row, LAYOUT_MAP_LAST, STYLE_NORMAL, "%016jx", (uintmax_t)last);
	screen_print_right(screen, row, LAYOUT_MAP_SIZE_END, STYLE_BRIGHT, "%s",
	                   text_bytes(text, sizeof(text), range->size_bytes));
	screen_text(screen, row, LAYOUT_MAP_TYPE, LAYOUT_MAP_MARKS - LAYOUT_MAP_TYPE - 1,
	            range->is_free ? STYLE_GOOD : STYLE_NORMAL, range->type);
	for (size_t i = 0; i < sizeof(marks) / sizeof(marks[0]); i++)
		if ((range->attributes & marks[i].bit) != 0) {
			screen_text(screen, row, column, 2, STYLE_DIM, marks[i].mark);
			column += 3;
		}
}

static void draw_heading(struct ui *ui, unsigned row, bool is_totals)
{
	struct screen *screen = ui->screen;

	if (is_totals) {
		screen_text(screen, row, LAYOUT_TEXT, LAYOUT_MAP_LAST, STYLE_DIM, "Totals by type");
		screen_print_right(screen, row, LAYOUT_MAP_COUNT_END, STYLE_DIM, "ranges");
	} else {
		screen_text(screen, row, LAYOUT_TEXT, LAYOUT_MAP_LAST, STYLE_DIM, "First byte");
		screen_text(screen, row, LAYOUT_MAP_LAST, LAYOUT_MAP_LAST, STYLE_DIM, "Last byte");
	}
	screen_print_right(screen, row, LAYOUT_MAP_SIZE_END, STYLE_DIM, "size");
	screen_text(screen, row, LAYOUT_MAP_TYPE, LAYOUT_MAP_MARKS - LAYOUT_MAP_TYPE, STYLE_DIM, "type");
}

static void draw_line(struct ui *ui, void *ctx, unsigned row, size_t index)
{
	const struct map *map = ctx;
	size_t first_range = TOTALS_LINE + map->n_totals + LINES_BETWEEN;

	if (index == 0 || index == first_range - 1)
		draw_heading(ui, row, index == 0);
	else if (index < TOTALS_LINE + map->n_totals)
		draw_total(ui, row, &map->totals[index - TOTALS_LINE]);
	else if (index >= first_range + map->n_ranges)
		screen_print(ui->screen, row, LAYOUT_TEXT, STYLE_DIM, "and %'zu more ranges, not in the totals",
		             map->n_beyond);
	else if (index >= first_range)
		draw_range(ui, row, &map->ranges[index - first_range]);
}

static void draw(struct ui *ui, struct map *map)
{
	char keys[96], parameter[48];

	text_format(parameter, sizeof(parameter), "%'zu ranges", map->n_ranges + map->n_beyond);
	frame_begin(ui, "Memory map", parameter, "");
	unsigned rows = frame_body_rows(ui);
	text_format(keys, sizeof(keys), "Esc back%s", pager_keys(ui, map->pager.n_lines, rows));
	screen_text(ui->screen, ui->screen->rows - 1, LAYOUT_MARGIN, ui->screen->columns, STYLE_NORMAL, keys);
	pager_draw(ui, &map->pager, LAYOUT_BODY_ROW, rows, draw_line, map);
	screen_flush(ui->screen);
}

void memory_map_screen(struct ui *ui)
{
	/* Too large for the firmware's stack. */
	static struct map map;

	map.pager = (struct pager){ .top = 0 };
	read_map(ui, &map);
	for (;;) {
		draw(ui, &map);
		int key = key_letter(wait_key(ui));
		if (pager_key(&map.pager, key))
			continue;
		if (key == HOST_KEY_ENTER || key == HOST_KEY_ESC || key == 'q')
			return;
	}
}
