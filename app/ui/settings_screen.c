/* SPDX-License-Identifier: MIT */
/*
 * Settings: engine, heap size, seed, seconds. A value is taken when it is legal and refused with one sentence when it
 * is not; a value that is being typed is dropped by Esc. Changes nothing but the options, and restarts the menu's
 * heap when its size changes.
 */
#include "../suite/text.h"
#include "widgets.h"

enum setting { SETTING_ENGINE, SETTING_HEAP, SETTING_SEED, SETTING_SECONDS, N_SETTINGS };

/* Below this no run of the suite is worth its name. */
#define MIN_HEAP_BYTES (UINT64_C(64) << 10)
/* About a month. */
#define MAX_SECONDS 2592000

#define MAX_TYPED 20

struct settings {
	enum setting selected;
	bool is_typing;
	bool is_untouched; /* what is to be changed is shown, and the first character replaces it */
	char typed[MAX_TYPED + 1];
	char message[160];
};

/* ------------------------------------------------------------------------------------------------------------
 * Values
 * --------------------------------------------------------------------------------------------------------- */

/* What the heap may be given: what is free now, and what the menu's heap would give back. */
static uint64_t max_heap_bytes(struct ui *ui)
{
	uint64_t limit = ui->host->heap_limit(ui->host);
	struct kheap *heap = ui_heap(ui);
	struct kheap_stats stats;

	if (heap == NULL)
		return limit;
	kheap_get_stats(heap, &stats);
	return limit + stats.footprint_bytes;
}

static void set_heap_bytes(struct ui *ui, uint64_t bytes)
{
	if (bytes == ui->options->heap_bytes && ui->heap_problem == NULL)
		return;
	ui_heap_stop(ui);
	ui->options->heap_bytes = bytes;
	ui_heap_start(ui);
}

/* The same number as it would be typed: "256M". */
static void typed_bytes(char *out, size_t size, uint64_t bytes)
{
	static const struct {
		unsigned shift;
		const char *unit;
	} units[] = { { 30, "G" }, { 20, "M" }, { 10, "K" }, { 0, "" } };
	unsigned i = 0;

	while ((bytes & ((UINT64_C(1) << units[i].shift) - 1)) != 0)
		i++;
	text_format(out, size, "%ju%s", (uintmax_t)(bytes >> units[i].shift), units[i].unit);
}

static bool take_heap(struct ui *ui, uint64_t bytes, char *message, size_t size)
{
	uint64_t most = max_heap_bytes(ui);
	char least_text[16], most_text[16];

	if (bytes < MIN_HEAP_BYTES || bytes > most) {
		text_format(message, size,
		            "The heap size must lie between %s and %s, which is what this machine can give now.",
		            text_bytes(least_text, sizeof(least_text), MIN_HEAP_BYTES),
		            text_bytes(most_text, sizeof(most_text), most));
		return false;
	}
	set_heap_bytes(ui, bytes);
	return true;
}

/* True when the typed text is a legal value and has been taken. */
static bool take_typed(struct ui *ui, struct settings *settings)
{
	struct suite_options *options = ui->options;
	char *message = settings->message;
	size_t size = sizeof(settings->message);
	bool is_heap = settings->selected == SETTING_HEAP;
	uint64_t value;

	if (!text_number(settings->typed, is_heap, &value)) {
		text_copy(message, size,
		          is_heap ? "Type a whole number, then K, M or G: 256M."
		                  : "Type a whole number below 2^64, decimal or 0x...");
		return false;
	}
	switch (settings->selected) {
	case SETTING_HEAP:
		return take_heap(ui, value, message, size);
	case SETTING_SECONDS:
		if (value > MAX_SECONDS) {
			text_format(message, size, "The time must be at most %'u seconds; 0 runs until Esc.",
			            MAX_SECONDS);
			return false;
		}
		options->seconds = (uint32_t)value;
		return true;
	default:
		options->seed = value;
		return true;
	}
}

/* ------------------------------------------------------------------------------------------------------------
 * Left and Right
 * --------------------------------------------------------------------------------------------------------- */

static void change_engine(struct ui *ui, bool up)
{
	struct allocator *const *engines = suite_engines(ui->host);
	size_t n = 0, at = 0;

	for (; engines[n] != NULL; n++)
		if (text_compare_nocase(engines[n]->name, ui->options->engine) == 0)
			at = n;
	if (n > 0)
		ui->options->engine = engines[up ? (at + 1) % n : (at + n - 1) % n]->name;
}

/* To the next power of two. */
static void change_heap(struct ui *ui, struct settings *settings, bool up)
{
	uint64_t bytes = ui->options->heap_bytes, power = MIN_HEAP_BYTES, most = max_heap_bytes(ui);

	if (up) {
		while (power <= bytes && power < UINT64_C(1) << 62)
			power <<= 1;
		if (power > most)
			power = most & ~(KMALLOC_PAGE_SIZE - 1);
	} else {
		while (power << 1 < bytes)
			power <<= 1;
	}
	take_heap(ui, power, settings->message, sizeof(settings->message));
}

static void change_seconds(struct suite_options *options, bool up)
{
	static const uint32_t steps[] = { 0, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14400, 28800, 86400 };
	const size_t n = sizeof(steps) / sizeof(steps[0]);

	if (up) {
		for (size_t i = 0; i < n; i++)
			if (steps[i] > options->seconds) {
				options->seconds = steps[i];
				return;
			}
	} else {
		for (size_t i = n; i-- > 0;)
			if (steps[i] < options->seconds) {
				options->seconds = steps[i];
				return;
			}
	}
}

static void change(struct ui *ui, struct settings *settings, bool up)
{
	switch (settings->selected) {
	case SETTING_ENGINE:
		change_engine(ui, up);
		break;
	case SETTING_HEAP:
		change_heap(ui, settings, up);
		break;
	case SETTING_SEED:
		ui->options->seed += up ? 1 : UINT64_MAX;
		break;
	default:
		change_seconds(ui->options, up);
		break;
	}
}

/* ------------------------------------------------------------------------------------------------------------
 * The screen
 * --------------------------------------------------------------------------------------------------------- */

static void value_text(struct ui *ui, enum setting setting, char *text, size_t size)
{
	const struct suite_options *options = ui->options;

	switch (setting) {
	case SETTING_ENGINE:
		text_copy(text, size, options->engine);
		break;
	case SETTING_HEAP:
		text_bytes(text, size, options->heap_bytes);
		break;
	case SETTING_SEED:
		text_format(text, size, "%ju", (uintmax_t)options->seed);
		break;
	default:
		if (options->seconds == 0)
			text_copy(text, size, "no limit");
		else
			text_format(text, size, "%'u", (unsigned)options->seconds);
		break;
	}
}

static void note_text(struct ui *ui, enum setting setting, char *text, size_t size)
{
	struct allocator *engine;
	char most[16];

	switch (setting) {
	case SETTING_ENGINE:
		engine = suite_engine(ui->host, ui->options->engine);
		text_copy(text, size, engine != NULL ? engine->description : "no such engine here");
		break;
	case SETTING_HEAP:
		text_format(text, size, "at most %s now", text_bytes(most, sizeof(most), max_heap_bytes(ui)));
		break;
	case SETTING_SEED:
		text_copy(text, size, "same seed, same work, on every machine");
		break;
	default:
		text_copy(text, size, "of a stress run; 0 runs until Esc");
		break;
	}
}

static void draw_setting(struct ui *ui, unsigned row, const struct settings *settings, enum setting setting)
{
	static const char *const names[N_SETTINGS] = { "Engine", "Heap size", "Seed", "Seconds" };
	struct screen *screen = ui->screen;
	bool is_selected = setting == settings->selected, is_typing = is_selected && settings->is_typing;
	enum style style = is_selected ? STYLE_SELECTED : STYLE_NORMAL;
	unsigned width = LAYOUT_SETTING_NOTE - LAYOUT_SETTING_VALUE - 1;
	char text[80];

	screen_fill(screen, row, LAYOUT_TEXT - 1, screen->columns - 2 * LAYOUT_MARGIN, style, ' ');
	screen_cell(screen, row, LAYOUT_TEXT, style, is_selected ? '>' : ' ');
	screen_text(screen, row, LAYOUT_SETTING_NAME, LAYOUT_SETTING_VALUE - LAYOUT_SETTING_NAME, style,
	            names[setting]);
	if (is_typing) {
		screen_print(screen, row, LAYOUT_SETTING_VALUE, style, "[%s_", settings->typed);
		screen_cell(screen, row, LAYOUT_SETTING_VALUE + width - 1, style, ']');
	} else {
		value_text(ui, setting, text, sizeof(text));
		screen_text(screen, row, LAYOUT_SETTING_VALUE, width, style, text);
	}
	note_text(ui, setting, text, sizeof(text));
	screen_text(screen, row, LAYOUT_SETTING_NOTE, screen->columns - LAYOUT_SETTING_NOTE - 2 * LAYOUT_MARGIN, style,
	            text);
}

static void draw(struct ui *ui, const struct settings *settings)
{
	const char *keys = "Up/Down choose   Left/Right change   Enter type   Esc back";

	if (settings->is_typing)
		keys = settings->selected == SETTING_HEAP
		               ? "Digits, then K, M or G   Enter accept   Esc leave as it was"
		               : "Digits   Enter accept   Esc leave as it was";
	else if (settings->selected == SETTING_ENGINE)
		keys = "Up/Down choose   Left/Right, Enter change   Esc back";
	frame_begin(ui, "Settings", "", keys);
	unsigned rows = frame_body_rows(ui), row = LAYOUT_BODY_ROW + (rows > 8);
	for (enum setting setting = 0; setting < N_SETTINGS && row < frame_body_end(ui); setting++)
		draw_setting(ui, row++, settings, setting);
	row += rows > 8;
	if (row < frame_body_end(ui)) {
		char problem[200] = "";
		const char *message = settings->message;
		if (message[0] == '\0' && ui->heap_problem != NULL) {
			text_format(problem, sizeof(problem), "The heap is not running. %s", ui->heap_problem);
			message = problem;
		}
		paragraph(ui, row, LAYOUT_SETTING_NAME, frame_body_end(ui) - row, STYLE_BAD, message);
	}
	screen_flush(ui->screen);
}

static bool may_be_typed(enum setting setting, int key)
{
	int letter = key_letter(key);

	if (letter >= '0' && letter <= '9')
		return setting != SETTING_ENGINE;
	if (setting == SETTING_HEAP)
		return letter == 'k' || letter == 'm' || letter == 'g';
	return setting == SETTING_SEED && (letter == 'x' || (letter >= 'a' && letter <= 'f'));
}

static void type_key(struct ui *ui, struct settings *settings, int key)
{
	bool is_typed = may_be_typed(settings->selected, key);

	settings->message[0] = '\0';
	if (is_typed && settings->is_untouched)
		settings->typed[0] = '\0';
	if (key != HOST_KEY_NONE && key != KEY_REDRAW)
		settings->is_untouched = false;
	size_t length = text_length(settings->typed);
	if (key == HOST_KEY_ESC) {
		settings->is_typing = false;
	} else if (key == HOST_KEY_ENTER) {
		settings->is_typing = !take_typed(ui, settings);
	} else if (key == HOST_KEY_BACKSPACE && length > 0) {
		settings->typed[length - 1] = '\0';
	} else if (is_typed && length < MAX_TYPED) {
		settings->typed[length] = (char)key;
		settings->typed[length + 1] = '\0';
	}
}

/* Enter on a row: its value, ready to be changed. */
static void start_typing(struct ui *ui, struct settings *settings)
{
	settings->is_typing = settings->is_untouched = true;
	switch (settings->selected) {
	case SETTING_HEAP:
		typed_bytes(settings->typed, sizeof(settings->typed), ui->options->heap_bytes);
		break;
	case SETTING_SEED:
		text_format(settings->typed, sizeof(settings->typed), "%ju", (uintmax_t)ui->options->seed);
		break;
	case SETTING_SECONDS:
		text_format(settings->typed, sizeof(settings->typed), "%u", (unsigned)ui->options->seconds);
		break;
	default:
		settings->is_typing = false;
		change_engine(ui, true);
		break;
	}
}

/* False: the user leaves. */
static bool choose_key(struct ui *ui, struct settings *settings, int key)
{
	settings->message[0] = '\0';
	if (key >= '0' && key <= '9' && settings->selected != SETTING_ENGINE) {
		settings->typed[0] = '\0';
		settings->is_typing = true;
		type_key(ui, settings, key);
		return true;
	}
	switch (key_letter(key)) {
	case HOST_KEY_UP:
	case 'k':
		settings->selected = (settings->selected + N_SETTINGS - 1) % N_SETTINGS;
		return true;
	case HOST_KEY_DOWN:
	case 'j':
	case HOST_KEY_TAB:
		settings->selected = (settings->selected + 1) % N_SETTINGS;
		return true;
	case HOST_KEY_LEFT:
	case 'h':
		change(ui, settings, false);
		return true;
	case HOST_KEY_RIGHT:
	case 'l':
		change(ui, settings, true);
		return true;
	case HOST_KEY_ENTER:
		start_typing(ui, settings);
		return true;
	default:
		return key != HOST_KEY_ESC && key_letter(key) != 'q';
	}
}

void settings_screen(struct ui *ui)
{
	struct settings settings = { .selected = SETTING_ENGINE };
	bool stays = true;

	while (stays) {
		draw(ui, &settings);
		int key = wait_key(ui);
		if (settings.is_typing)
			type_key(ui, &settings, key);
		else
			stays = choose_key(ui, &settings, key);
	}
}
