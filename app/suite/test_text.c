/* SPDX-License-Identifier: MIT */
/*
 * The suite's own tools: text, numbers, options, random numbers and patterns. First, because every later verdict is
 * made with them.
 */
#include "keys.h"
#include "pattern.h"
#include "selftest.h"

static bool formats_to(struct test *t, const char *expected, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static bool formats_to(struct test *t, const char *expected, const char *format, ...)
{
	char seen[80];
	va_list args;
	int length;

	va_start(args, format);
	length = text_vformat(seen, sizeof(seen), format, args);
	va_end(args);
	REQUIRE(t, text_compare(seen, expected) == 0, "format '%s' gave '%s', expected '%s'", format, seen, expected);
	REQUIRE(t, length == (int)text_length(expected), "format '%s' returned %d, expected %zu", format, length,
	        text_length(expected));
	return true;
}

static void numbers_are_formatted(struct test *t)
{
	TRY(formats_to(t, "0 7 -7 +7 4294967295", "%d %i %d %+d %u", 0, 7, -7, 7, 0xffffffffu));
	TRY(formats_to(t, "18446744073709551615 -9223372036854775808", "%llu %lld", ~0ULL, (long long)INT64_MIN));
	TRY(formats_to(t, "12,482,113 999 1,000", "%'u %'u %'u", 12482113u, 999u, 1000u));
	TRY(formats_to(t, "18,446,744,073,709,551,615", "%'llu", ~0ULL));
	TRY(formats_to(t, "ff FF 0x1000 00ff", "%x %X %p %04x", 255u, 255u, (void *)(uintptr_t)4096, 255u));
	TRY(formats_to(t, "[    7] [7    ] [00007] [   -7] [-0007]", "[%5d] [%-5d] [%05d] [%5d] [%05d]", 7, 7, 7, -7,
	               -7));
	TRY(formats_to(t, "[   42] [42   ]", "[%*d] [%-*d]", 5, 42, 5, 42));
	TRY(formats_to(t, "1234567890 10000000000 4294967295", "%zu %ju %lu", (size_t)1234567890u,
	               (uintmax_t)10000000000u, 4294967295ul));
}

static void strings_are_formatted(struct test *t)
{
	char small[5];

	TRY(formats_to(t, "100 % x|abc|  abc|abc  |ab|", "100 %% %c|%s|%5s|%-5s|%.2s|", 'x', "abc", "abc", "abc",
	               "abc"));
	TRY(formats_to(t, "|a|", "|%.*s|", 1, "abc"));
	CHECK(t, text_format(small, sizeof(small), "%s", "abcdefgh") == 8,
	      "a cut text's length is not that of the whole text");
	CHECK(t, text_compare(small, "abcd") == 0, "'abcdefgh' in 5 bytes became '%s'", small);
	CHECK(t, text_format(small, 0, "x") == 1 && small[0] == 'a', "a buffer of size 0 was written to");
}

static void sizes_are_formatted(struct test *t)
{
	static const struct {
		uint64_t bytes;
		const char *text;
	} sizes[] = {
		{ 0, "0 B" },
		{ 12, "12 B" },
		{ 1023, "1023 B" },
		{ 1024, "1.0 KiB" },
		{ 1536, "1.5 KiB" },
		{ 192099123, "183.1 MiB" },
		{ (uint64_t)1000 << 20, "1000 MiB" },
		{ (uint64_t)1 << 30, "1.0 GiB" },
		{ UINT64_MAX, "15.9 EiB" },
	};
	char seen[16];

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		CHECK(t, text_compare(text_bytes(seen, sizeof(seen), sizes[i].bytes), sizes[i].text) == 0,
		      "%llu bytes became '%s', expected '%s'", (unsigned long long)sizes[i].bytes, seen, sizes[i].text);
}

static void numbers_are_read(struct test *t)
{
	static const struct {
		const char *text;
		bool units, legal;
		uint64_t value;
	} numbers[] = {
		{ "0", false, true, 0 },
		{ "42", false, true, 42 },
		{ "0x2A", false, true, 42 },
		{ "18446744073709551615", false, true, UINT64_MAX },
		{ "18446744073709551616", false, false, 0 },
		{ "", false, false, 0 },
		{ "0x", false, false, 0 },
		{ "-1", false, false, 0 },
		{ " 1", false, false, 0 },
		{ "12a", false, false, 0 },
		{ "256M", true, true, (uint64_t)256 << 20 },
		{ "64k", true, true, 65536 },
		{ "2G", true, true, (uint64_t)2 << 30 },
		{ "256M", false, false, 0 },
		{ "256MB", true, false, 0 },
		{ "M", true, false, 0 },
		{ "17179869184G", true, false, 0 },
		{ "17179869183G", true, true, (uint64_t)17179869183u << 30 },
	};

	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		uint64_t value = 0;
		bool legal = text_number(numbers[i].text, numbers[i].units, &value);

		CHECK(t, legal == numbers[i].legal && value == numbers[i].value, "'%s' was read as %s %llu",
		      numbers[i].text, legal ? "legal" : "wrong", (unsigned long long)value);
	}
}

#define LINE_MAX 80
#define WORDS_MAX 12

/* What suite_parse says of a command line; the words of it stay in `line`. */
struct parsed {
	struct suite_options options;
	char line[LINE_MAX];
	char why[120];
	bool is_legal;
};

static void parse(struct parsed *parsed, const char *words)
{
	char *argv[WORDS_MAX];
	int argc = 0;

	parsed->why[0] = '\0';
	text_copy(parsed->line, sizeof(parsed->line), words);
	for (char *p = parsed->line; *p != '\0' && argc < WORDS_MAX;) {
		argv[argc++] = p;
		while (*p != '\0' && *p != ' ')
			p++;
		if (*p == ' ')
			*p++ = '\0';
	}
	suite_default_options(&parsed->options);
	parsed->is_legal = suite_parse(argc, argv, &parsed->options, parsed->why, sizeof(parsed->why));
}

static void options_are_read(struct test *t)
{
	struct parsed parsed;
	const struct suite_options *options = &parsed.options;

	parse(&parsed, "stress -Seconds 7 --seed 0x10 -heap 8M -engine classic -format TAP");
	CHECK(t, parsed.is_legal, "a legal command line was refused: %s", parsed.why);
	CHECK(t,
	      options->command == SUITE_STRESS && options->seconds == 7 && options->seed == 16 &&
	              options->heap_bytes == 8u << 20 && text_compare(options->engine, "classic") == 0 &&
	              options->format == SUITE_TAP,
	      "an option was read wrongly");
	parse(&parsed, "stress -operations 10K");
	CHECK(t, parsed.is_legal, "a legal command line was refused: %s", parsed.why);
	CHECK(t, options->operations == 10240 && options->seconds == 0,
	      "-operations alone does not bound the run alone");
	parse(&parsed, "");
	CHECK(t, parsed.is_legal && options->command == SUITE_MENU, "no words are not the menu");
	parse(&parsed, "-?");
	CHECK(t, parsed.is_legal && options->command == SUITE_HELP, "-? is not help");
	parse(&parsed, "selftest -group mis");
	CHECK(t, parsed.is_legal && text_compare(options->group, "mis") == 0, "-group was not read");
}

static void wrong_options_are_refused(struct test *t)
{
	static const char *const wrong[] = {
		"stres",
		"-nonsense",
		"-heap 0",
		"-heap 12Q",
		"-heap",
		"-seconds -5",
		"-seconds 9999999999",
		"-format xml",
		"stress selftest",
		"stress -seconds 0",
		"-",
		"--",
		"-seed",
		"-seed 12 13",
	};
	struct parsed parsed;

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		parse(&parsed, wrong[i]);
		CHECK(t, !parsed.is_legal, "'%s' was accepted", wrong[i]);
		CHECK(t, parsed.why[0] != '\0' && parsed.why[text_length(parsed.why) - 1] == '.',
		      "the reason for refusing '%s' is not a sentence: '%s'", wrong[i], parsed.why);
	}
}

static void random_numbers_repeat(struct test *t)
{
	/* Worked out by other means than this code. */
	static const uint64_t first[] = { 0x31b0ece7c4f697a2u, 0x9008a3b1cb686f03u, 0x7c7173abd97be16fu };
	struct random a, b;

	random_seed(&a, 42);
	for (unsigned i = 0; i < 3; i++)
		CHECK(t, random_next(&a) == first[i], "number %u of seed 42 is not what it has to be", i);
	random_seed(&a, 42);
	random_seed(&b, 42);
	for (unsigned i = 0; i < 1000; i++)
		CHECK(t, random_next(&a) == random_next(&b), "number %u differs between two runs with one seed", i);
	random_seed(&b, 43);
	CHECK(t, random_next(&a) != random_next(&b), "seeds 42 and 43 give the same number");
	random_seed(&a, 0);
	CHECK(t, random_next(&a) != 0 && random_next(&a) != random_next(&a), "seed 0 gives a constant");
}

static void random_sizes_cover_octaves(struct test *t)
{
	struct random random;
	unsigned octaves[12] = { 0 };

	random_seed(&random, 1);
	for (unsigned i = 0; i < 12000; i++) {
		size_t size = random_size(&random, 1, 3000);
		unsigned octave = 0;

		CHECK(t, size >= 1 && size <= 3000, "size %zu is not within 1..3000", size);
		while (size >> (octave + 1) != 0)
			octave++;
		octaves[octave]++;
	}
	for (unsigned i = 0; i < 12; i++)
		CHECK(t, octaves[i] > 800 && octaves[i] < 1200,
		      "of 12000 sizes %u are in octave %u, expected about 1000", octaves[i], i);
	for (unsigned i = 0; i < 1000; i++)
		CHECK(t, random_below(&random, 7) < 7, "a number below 7 is not");
	CHECK(t, random_size(&random, 5, 5) == 5, "the only size within 5..5 is not 5");
}

static void patterns_find_every_byte(struct test *t)
{
	uint8_t bytes[100];

	for (size_t size = 0; size <= sizeof(bytes); size++) {
		pattern_fill(bytes, 7, 0, size / 3);
		pattern_fill(bytes, 7, size / 3, size);
		CHECK(t, pattern_verify(bytes, 7, size) == PATTERN_INTACT,
		      "a pattern of %zu bytes is not what was written", size);
		for (size_t i = 0; i < size; i++) {
			bytes[i] ^= 1;
			CHECK(t, pattern_verify(bytes, 7, size) == i, "a changed bit in byte %zu of %zu was not found",
			      i, size);
			bytes[i] ^= 1;
		}
	}
	pattern_fill(bytes, 7, 0, sizeof(bytes));
	CHECK(t, pattern_verify(bytes, 8, 8) != PATTERN_INTACT, "blocks 7 and 8 carry the same pattern");
}

/* What a terminal sends after Esc, and how much of it has been read. */
static const char *sent;

static int next_sent(void)
{
	return *sent != '\0' ? (unsigned char)*sent++ : KEYS_NO_BYTE;
}

static void keys_are_decoded(struct test *t)
{
	static const struct {
		const char *text;
		int key;
	} sequences[] = {
		{ "[A", HOST_KEY_UP },         { "OB", HOST_KEY_DOWN },
		{ "[C", HOST_KEY_RIGHT },      { "[1;5D", HOST_KEY_LEFT },
		{ "[H", HOST_KEY_HOME },       { "[1~", HOST_KEY_HOME },
		{ "[8~", HOST_KEY_END },       { "OF", HOST_KEY_END },
		{ "[3~", HOST_KEY_BACKSPACE }, { "[5;3~", HOST_KEY_PAGE_UP },
		{ "[6~", HOST_KEY_PAGE_DOWN }, { "OP", HOST_KEY_NONE },
		{ "[15~", HOST_KEY_NONE },     { "[[A", HOST_KEY_NONE },
		{ "[?1;2c", HOST_KEY_NONE },   { "[99999999999~", HOST_KEY_NONE },
		{ "[", HOST_KEY_NONE },        { "O", HOST_KEY_NONE },
		{ "[1", HOST_KEY_NONE },
	};

	for (size_t i = 0; i < sizeof(sequences) / sizeof(sequences[0]); i++) {
		sent = sequences[i].text + 1;
		CHECK(t, keys_sequence(sequences[i].text[0], next_sent) == sequences[i].key,
		      "Esc %s is decoded as another key", sequences[i].text);
		CHECK(t, *sent == '\0', "Esc %s was not read to its end", sequences[i].text);
	}
	sent = "0000000000000000000000000000000000000000";
	CHECK(t, keys_sequence('[', next_sent) == HOST_KEY_NONE && text_length(sent) > 8,
	      "a sequence without an end was read for ever");
}

static const struct test_case cases[] = {
	{ "numbers are formatted as printf would", numbers_are_formatted },
	{ "strings are formatted, cut and padded as printf would", strings_are_formatted },
	{ "sizes are shown with four digits and a unit", sizes_are_formatted },
	{ "numbers with units are read, and wrong ones refused", numbers_are_read },
	{ "options are read", options_are_read },
	{ "wrong options are refused with a reason", wrong_options_are_refused },
	{ "a seed gives the random numbers that it has to give", random_numbers_repeat },
	{ "random sizes cover all octaves equally", random_sizes_cover_octaves },
	{ "a pattern shows every changed byte", patterns_find_every_byte },
	{ "the keys of terminals are told apart, and unknown ones swallowed", keys_are_decoded },
};
TEST_GROUP(text, cases);
