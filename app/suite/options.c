/* SPDX-License-Identifier: MIT */
/*
 * The command line, the same on every host. Only reads argv and fills in options; never prints.
 */
#include "suite.h"
#include "text.h"

const char suite_usage[] = "usage: kmalloc [menu | selftest | stress | bench | latency | frag | scale | replay FILE | "
			   "info | version | help] [-seconds N] "
			   "[-operations N] [-seed N] [-heap SIZE[K|M|G]] "
			   "[-engine NAME] [-format text|tap|json] [-group NAME]";

/* Of a measurement, when nothing else is asked for. */
#define MEASURE_SECONDS 10
/* What a person may have meant by "forever"; longer than any test of a machine. */
#define SECONDS_MAX (366u * 24 * 60 * 60)

void suite_default_options(struct suite_options *options)
{
	*options = (struct suite_options){
		.command = SUITE_MENU,
		.format = SUITE_TEXT,
		.engine = "heap",
		.seed = 42,
		.seconds = 60,
		.operations = 0,
		.heap_bytes = (uint64_t)256 << 20,
		.group = NULL,
	};
}

static bool parse_command(const char *word, enum suite_command *command)
{
	static const struct {
		const char *word;
		enum suite_command command;
	} commands[] = {
		{ "menu", SUITE_MENU },     { "selftest", SUITE_SELFTEST }, { "stress", SUITE_STRESS },
		{ "info", SUITE_INFO },     { "version", SUITE_VERSION },   { "help", SUITE_HELP },
		{ "replay", SUITE_REPLAY }, { "bench", SUITE_BENCH },       { "latency", SUITE_LATENCY },
		{ "frag", SUITE_FRAG },     { "scale", SUITE_SCALE },
	};

	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (text_compare_nocase(word, commands[i].word) == 0) {
			*command = commands[i].command;
			return true;
		}
	}
	return false;
}

static bool parse_format(const char *value, enum suite_format *format)
{
	if (text_compare_nocase(value, "text") == 0)
		*format = SUITE_TEXT;
	else if (text_compare_nocase(value, "tap") == 0)
		*format = SUITE_TAP;
	else if (text_compare_nocase(value, "json") == 0)
		*format = SUITE_JSON;
	else
		return false;
	return true;
}

static bool parse_seconds(const char *value, uint32_t *seconds)
{
	uint64_t number;

	if (!text_number(value, false, &number) || number > SECONDS_MAX)
		return false;
	*seconds = (uint32_t)number;
	return true;
}

/* One option that takes a value, its name known to takes_value(). False: the value is not legal. */
static bool parse_value(const char *name, const char *value, struct suite_options *options, bool *has_seconds)
{
	if (text_compare_nocase(name, "seconds") == 0) {
		*has_seconds = true;
		return parse_seconds(value, &options->seconds);
	}
	if (text_compare_nocase(name, "operations") == 0)
		return text_number(value, true, &options->operations);
	if (text_compare_nocase(name, "seed") == 0)
		return text_number(value, false, &options->seed);
	if (text_compare_nocase(name, "heap") == 0)
		return text_number(value, true, &options->heap_bytes) && options->heap_bytes > 0;
	if (text_compare_nocase(name, "format") == 0)
		return parse_format(value, &options->format);
	if (text_compare_nocase(name, "engine") == 0)
		options->engine = value;
	else
		options->group = value;
	return true;
}

static bool takes_value(const char *name)
{
	static const char *const names[] = { "seconds", "operations", "seed", "heap", "engine", "format", "group" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (text_compare_nocase(name, names[i]) == 0)
			return true;
	return false;
}

static bool is_help(const char *name)
{
	return text_compare(name, "?") == 0 || text_compare_nocase(name, "h") == 0 ||
	       text_compare_nocase(name, "help") == 0;
}

/* The words of one command line; state that outlives one word. */
struct parser {
	struct suite_options *options;
	bool has_command, has_seconds;
	char *why;
	size_t why_size;
};

static bool parse_word(struct parser *parser, const char *word)
{
	/* The word after `replay` is the trace. */
	if (parser->has_command && parser->options->command == SUITE_REPLAY && parser->options->file == NULL) {
		parser->options->file = word;
		return true;
	}
	if (!parse_command(word, &parser->options->command)) {
		text_format(parser->why, parser->why_size, "'%.40s' is not a command.", word);
		return false;
	}
	if (parser->has_command) {
		text_format(parser->why, parser->why_size, "'%.40s' is one command too many.", word);
		return false;
	}
	parser->has_command = true;
	return true;
}

/* An option without its dashes; *used says how many words after it belong to it. */
static bool parse_option(struct parser *parser, const char *name, const char *value, int *used)
{
	*used = 0;
	if (is_help(name)) {
		parser->options->command = SUITE_HELP;
		parser->has_command = true;
		return true;
	}
	if (!takes_value(name)) {
		text_format(parser->why, parser->why_size, "'-%.40s' is not an option.", name);
		return false;
	}
	if (value == NULL) {
		text_format(parser->why, parser->why_size, "-%.40s needs a value.", name);
		return false;
	}
	if (!parse_value(name, value, parser->options, &parser->has_seconds)) {
		text_format(parser->why, parser->why_size, "'%.40s' is not a value for -%.40s.", value, name);
		return false;
	}
	*used = 1;
	return true;
}

static bool is_measuring(enum suite_command command)
{
	return command == SUITE_BENCH || command == SUITE_LATENCY || command == SUITE_FRAG || command == SUITE_SCALE;
}

/* What only measuring commands ask for. */
static bool has_measure(const struct suite_options *options, char *why, size_t why_size)
{
	if (options->seconds == 0) {
		text_format(why, why_size, "A measurement needs a bound: give -seconds, and not 0.");
		return false;
	}
	if (options->format == SUITE_TAP) {
		text_format(why, why_size, "A measurement gives -format text or json, not tap.");
		return false;
	}
	return true;
}

/* The commands whose result is a record for machines. */
static bool gives_json(enum suite_command command)
{
	return command == SUITE_REPLAY || is_measuring(command);
}

bool suite_parse(int argc, char *const argv[], struct suite_options *options, char *why, size_t why_size)
{
	struct parser parser = { .options = options, .why = why, .why_size = why_size };

	for (int i = 0; i < argc; i++) {
		const char *word = argv[i];
		int used = 0;

		if (word[0] != '-') {
			if (!parse_word(&parser, word))
				return false;
			continue;
		}
		word += word[1] == '-' ? 2 : 1;
		if (!parse_option(&parser, word, i + 1 < argc ? argv[i + 1] : NULL, &used))
			return false;
		if (options->command == SUITE_HELP)
			return true;
		i += used;
	}
	/*
	 * A number of operations is a bound of its own: without -seconds it is the only one, so that a run can be
	 * repeated.
	 */
	if (options->operations != 0 && !parser.has_seconds)
		options->seconds = 0;
	/* Measuring takes less time than finding rare faults. */
	if (is_measuring(options->command) && !parser.has_seconds)
		options->seconds = MEASURE_SECONDS;
	if (is_measuring(options->command) && !has_measure(options, why, why_size))
		return false;
	if (options->command == SUITE_STRESS && options->operations == 0 && options->seconds == 0) {
		text_format(why, why_size, "A stress run needs a bound: give -seconds or -operations, not 0 for both.");
		return false;
	}
	if (options->command == SUITE_REPLAY && options->file == NULL) {
		text_format(why, why_size, "replay needs the name of a trace: kmalloc replay FILE.");
		return false;
	}
	if (options->format == SUITE_JSON && !gives_json(options->command)) {
		text_format(why, why_size, "Only bench, latency, frag, scale and replay give -format json.");
		return false;
	}
	if (options->format == SUITE_TAP && options->command == SUITE_REPLAY) {
		text_format(why, why_size, "replay gives -format text or json, not tap.");
		return false;
	}
	return true;
}
