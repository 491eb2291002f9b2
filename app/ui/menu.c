/* SPDX-License-Identifier: MIT */
/*
 * Home: what machine this is, and what can be done with it. Chooses a screen and runs it; must leave the terminal,
 * the keys and every page as it found them.
 */
#include "ui.h"

#include "../suite/text.h"
#include "widgets.h"

#ifndef KMALLOC_BUILD_ID
#define KMALLOC_BUILD_ID ""
#endif

/* What an item does; the order is that of the screen. */
enum action {
	SELFTEST,
	STRESS,
	STATISTICS,
	MEMORY_MAP,
	SETTINGS,
	BENCHMARK,
	REPLAY,
	RESTART,
	POWER_OFF,
	QUIT,
	N_ACTIONS
};

struct item {
	char key;
	const char *name;
};

static const struct item items[N_ACTIONS] = {
	[SELFTEST] = { '1', "Self-test" },
	[STRESS] = { '2', "Stress" },
	[STATISTICS] = { '3', "Heap statistics" },
	[MEMORY_MAP] = { '4', "Memory map" },
	[SETTINGS] = { '5', "Settings" },
	[BENCHMARK] = { '6', "Benchmark" },
	[REPLAY] = { '7', "Replay" },
	[RESTART] = { 'R', "Restart" },
	[POWER_OFF] = { 'P', "Power off" },
	[QUIT] = { 'Q', "Quit" },
};

struct home {
	enum action actions[N_ACTIONS]; /* that this host has */
	unsigned n_actions;
	unsigned selected;
	const char *message; /* about what was just tried, or NULL */
};

static void find_actions(struct ui *ui, struct home *home)
{
	for (enum action action = 0; action < N_ACTIONS; action++) {
		bool is_missing = (action == RESTART && ui->host->restart == NULL) ||
		                  (action == POWER_OFF && ui->host->power_off == NULL);
		if (!is_missing)
			home->actions[home->n_actions++] = action;
	}
}

static void item_note(struct ui *ui, enum action action, char *note, size_t size)
{
	const struct suite_options *options = ui->options;
	char text[24], time[24];

	note[0] = '\0';
	switch (action) {
	case SELFTEST:
		text_copy(note, size, "every promise of the heap, case by case");
		break;
	case STRESS:
		text_format(note, size, "random work, every byte verified, %s",
		            options->seconds == 0 ? "until Esc"
		                                  : duration(time, sizeof(time), options->seconds * (uint64_t)1000));
		break;
	case STATISTICS:
		text_copy(note, size, "what it holds, and a check of every invariant");
		break;
	case MEMORY_MAP:
		text_format(note, size, "as %s describes it", ui->host->platform);
		break;
	case SETTINGS:
		text_format(note, size, "%s, %s, seed %ju", options->engine,
		            text_bytes(text, sizeof(text), options->heap_bytes), (uintmax_t)options->seed);
		break;
	case BENCHMARK:
		text_copy(note, size, "every engine side by side, 10 s");
		break;
	case REPLAY:
		text_copy(note, size, "what recorded programs did, done again");
		break;
	case QUIT:
		text_copy(note, size, "gives all memory back and leaves; asks first");
		break;
	default:
		text_copy(note, size, "asks first");
		break;
	}
}

/* ------------------------------------------------------------------------------------------------------------
 * Facts: "Label      value"
 * --------------------------------------------------------------------------------------------------------- */

enum fact { FACT_PLATFORM, FACT_CPU, FACT_CLOCK, FACT_MEMORY, FACT_HEAP, N_FACTS };

static void memory_fact(struct ui *ui, char *text, size_t size)
{
	struct host_memory memory;
	char total[16], free[16], largest[16];

	ui->host->memory(ui->host, &memory);
	text_format(text, size, "%s free of %s, largest range %s", text_bytes(free, sizeof(free), memory.free_bytes),
	            text_bytes(total, sizeof(total), memory.total_bytes),
	            text_bytes(largest, sizeof(largest), memory.largest_free_bytes));
}

static enum style heap_fact(struct ui *ui, char *text, size_t size)
{
	struct kheap *heap = ui_heap(ui);
	struct kheap_stats stats;
	char held[16], limit[16];

	if (heap == NULL) {
		text_format(text, size, "not running. %s", ui->heap_problem);
		return STYLE_BAD;
	}
	kheap_get_stats(heap, &stats);
	text_format(text, size, "%s in %zu region%s, may grow to %s",
	            text_bytes(held, sizeof(held), stats.footprint_bytes), stats.n_regions,
	            stats.n_regions == 1 ? "" : "s", text_bytes(limit, sizeof(limit), ui->heap_budget));
	return STYLE_NORMAL;
}

static void draw_fact(struct ui *ui, unsigned row, enum fact fact)
{
	static const char *const labels[N_FACTS] = { "Platform", "Processor", "Clock", "Memory", "Heap" };
	const struct host *host = ui->host;
	enum style style = STYLE_NORMAL;
	char text[160] = "";

	switch (fact) {
	case FACT_PLATFORM:
		text_format(text, sizeof(text), "%s%s%s", host->firmware, host->specification[0] != '\0' ? ", " : "",
		            host->specification);
		break;
	case FACT_CPU:
		text_format(text, sizeof(text), "%u x %s", host->n_cpus, host->cpu);
		break;
	case FACT_CLOCK:
		text_format(text, sizeof(text), "%s%s", host->clock,
		            host->is_virtual_machine ? " (virtual machine: do not compare times)" : "");
		break;
	case FACT_MEMORY:
		memory_fact(ui, text, sizeof(text));
		break;
	default:
		style = heap_fact(ui, text, sizeof(text));
		break;
	}
	screen_text(ui->screen, row, LAYOUT_TEXT, LAYOUT_FACT - LAYOUT_TEXT, STYLE_DIM, labels[fact]);
	screen_print(ui->screen, row, LAYOUT_FACT, style, "%s", text);
}

static void draw_item(struct ui *ui, unsigned row, enum action action, bool is_selected)
{
	struct screen *screen = ui->screen;
	enum style style = is_selected ? STYLE_SELECTED : STYLE_NORMAL;
	char note[96];

	screen_fill(screen, row, LAYOUT_TEXT - 1, screen->columns - 2 * LAYOUT_MARGIN, style, ' ');
	screen_cell(screen, row, LAYOUT_TEXT, style, is_selected ? '>' : ' ');
	screen_cell(screen, row, LAYOUT_ITEM_KEY, style, items[action].key);
	screen_text(screen, row, LAYOUT_ITEM_NAME, LAYOUT_ITEM_NOTE - LAYOUT_ITEM_NAME - 1, style, items[action].name);
	item_note(ui, action, note, sizeof(note));
	screen_text(screen, row, LAYOUT_ITEM_NOTE, screen->columns - LAYOUT_ITEM_NOTE - 2 * LAYOUT_MARGIN, style, note);
}

/* The list of items in `rows` rows from `row`: all of them, or those around the chosen one. */
static void draw_items(struct ui *ui, const struct home *home, unsigned row, unsigned rows, bool with_gap)
{
	unsigned first = 0, n = home->n_actions;

	if (rows < n) {
		first = home->selected >= rows ? home->selected - rows + 1 : 0;
		n = rows;
	}
	for (unsigned i = first; i < first + n; i++) {
		/* What ends the program stands apart. */
		if (with_gap && home->actions[i] > REPLAY && home->actions[i - 1] <= REPLAY)
			row++;
		draw_item(ui, row++, home->actions[i], i == home->selected);
	}
}

static void draw_home(struct ui *ui, const struct home *home)
{
	char parameter[48];

	text_format(parameter, sizeof(parameter), "%s, %s", ui->host->platform, ui->host->architecture);
	frame_begin(ui, "", parameter, "Up/Down choose   Enter start   or press its key");
	if (KMALLOC_BUILD_ID[0] != '\0')
		frame_note(ui, "build " KMALLOC_BUILD_ID);

	/*
	 * Facts, a gap, items with a gap among them, a gap and a message; on a short terminal the gaps go first, then
	 * the facts.
	 */
	unsigned rows = frame_body_rows(ui), n_items = home->n_actions, row = LAYOUT_BODY_ROW;
	unsigned n_message = home->message != NULL ? 2 : 0;
	bool with_gaps = rows >= N_FACTS + 1 + n_items + 1 + n_message;
	unsigned needed = N_FACTS + n_items + (with_gaps ? 2 : 0) + n_message;
	unsigned n_facts = N_FACTS;

	if (rows > needed)
		row += (rows - needed) / 3;
	else if (rows < needed)
		n_facts = needed - rows < N_FACTS ? N_FACTS - (needed - rows) : 0;
	for (unsigned i = 0; i < n_facts; i++)
		draw_fact(ui, row++, (enum fact)i);
	row += with_gaps;
	unsigned end = frame_body_end(ui) - (n_message < frame_body_rows(ui) ? n_message : 0);
	draw_items(ui, home, row, row < end ? end - row : 0, with_gaps);
	if (home->message != NULL)
		paragraph(ui, end, LAYOUT_TEXT, n_message, STYLE_BAD, home->message);
	screen_flush(ui->screen);
}

/* ------------------------------------------------------------------------------------------------------------
 * Doing
 * --------------------------------------------------------------------------------------------------------- */

/* Restart or power off. Everything is given back first, because the firmware may refuse and go on. */
static const char *leave_machine(struct ui *ui, bool is_restart)
{
	if (!ask(ui, is_restart ? "Restart this machine?" : "Power this machine off?", ""))
		return NULL;
	ui_heap_stop(ui);
	(is_restart ? ui->host->restart : ui->host->power_off)(ui->host);
	ui_heap_start(ui);
	screen_invalidate(ui->screen);
	return is_restart ? "The firmware did not restart the machine: use its reset button."
	                  : "The firmware did not power the machine off: use its power button.";
}

/* False: the user leaves. */
static bool act(struct ui *ui, struct home *home, enum action action)
{
	home->message = NULL;
	switch (action) {
	case SELFTEST:
		selftest_screen(ui);
		return true;
	case STRESS:
		stress_screen(ui);
		return true;
	case STATISTICS:
		statistics_screen(ui);
		return true;
	case MEMORY_MAP:
		memory_map_screen(ui);
		return true;
	case SETTINGS:
		settings_screen(ui);
		return true;
	case BENCHMARK:
		bench_screen(ui);
		return true;
	case REPLAY:
		replay_screen(ui);
		return true;
	case RESTART:
	case POWER_OFF:
		home->message = leave_machine(ui, action == RESTART);
		return true;
	default:
		return !ask(ui, "Leave kmalloc?", "All memory is given back.");
	}
}

/* False: the user leaves. */
static bool home_key(struct ui *ui, struct home *home, int key)
{
	for (unsigned i = 0; i < home->n_actions; i++)
		if (key_letter(key) == key_letter(items[home->actions[i]].key)) {
			home->selected = i;
			draw_home(ui, home);
			return act(ui, home, home->actions[i]);
		}
	switch (key_letter(key)) {
	case HOST_KEY_UP:
	case 'k':
		home->selected = (home->selected + home->n_actions - 1) % home->n_actions;
		return true;
	case HOST_KEY_DOWN:
	case 'j':
	case HOST_KEY_TAB:
		home->selected = (home->selected + 1) % home->n_actions;
		return true;
	case HOST_KEY_HOME:
	case HOST_KEY_PAGE_UP:
		home->selected = 0;
		return true;
	case HOST_KEY_END:
	case HOST_KEY_PAGE_DOWN:
		home->selected = home->n_actions - 1;
		return true;
	case HOST_KEY_ENTER:
		return act(ui, home, home->actions[home->selected]);
	case HOST_KEY_ESC:
		return home_key(ui, home, items[QUIT].key);
	default:
		return true;
	}
}

enum suite_outcome ui_menu(struct host *host, struct terminal *terminal, struct suite_options *options)
{
	/* Too large for the firmware's stack. */
	static struct screen screen;
	struct ui ui = { .host = host, .options = options, .screen = &screen, .worst = SUITE_PASSED };
	struct home home = { .selected = 0 };

	terminal->begin(terminal);
	screen_init(&screen, terminal);
	find_actions(&ui, &home);
	/* The size that the screens show is one that this machine can give. */
	if (options->heap_bytes > host->heap_limit(host))
		options->heap_bytes = host->heap_limit(host);
	ui_heap_start(&ui);
	host->flush_keys(host);
	do {
		draw_home(&ui, &home);
	} while (home_key(&ui, &home, wait_key(&ui)));
	ui_heap_stop(&ui);
	terminal->end(terminal);
	return ui.worst;
}
