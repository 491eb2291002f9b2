/* SPDX-License-Identifier: MIT */
/*
 * Text for people, made without a libc. Touches nothing but the buffers it is given and host->write. Never
 * allocates, never uses floating point, and divides only 32-bit numbers, so that a 32-bit firmware needs no helper
 * library.
 */
#include "text.h"

/* Enough for 64 bits in decimal with separators and a sign. */
#define DIGITS_SIZE 32
#define PRINT_SIZE 512
/* A width or precision beyond this is a mistake in the format. */
#define WIDTH_MAX 1000

/* Where text goes; counts what would not fit as well. */
struct sink {
	char *out;
	size_t size;
	size_t length;
};

struct spec {
	bool left, zero, plus, separators;
	int width;
	int precision; /* -1: none */
	char size;     /* 0, 'l' (both l and ll), 'z', 'j' */
};

static void put_char(struct sink *sink, char c)
{
	if (sink->length + 1 < sink->size)
		sink->out[sink->length] = c;
	sink->length++;
}

static void put_repeated(struct sink *sink, char c, int n)
{
	for (; n > 0; n--)
		put_char(sink, c);
}

/* *value /= divisor (below 2^16), returns the remainder. */
static unsigned divide_small(uint64_t *value, uint32_t divisor)
{
	uint32_t high = (uint32_t)(*value >> 32), low = (uint32_t)*value;
	uint32_t part, quotient_high, quotient_mid;

	quotient_high = high / divisor;
	part = (high % divisor) << 16 | low >> 16;
	quotient_mid = part / divisor;
	part = (part % divisor) << 16 | (low & 0xffff);
	*value = (uint64_t)quotient_high << 32 | (uint64_t)quotient_mid << 16 | part / divisor;
	return part % divisor;
}

/* Digits of value at the end of buffer; returns the first. */
static const char *make_digits(char buffer[DIGITS_SIZE], uint64_t value, uint32_t base, bool upper, bool separators)
{
	const char *symbols = upper ? "0123456789ABCDEF" : "0123456789abcdef";
	char *p = buffer + DIGITS_SIZE;
	unsigned n = 0;

	*--p = '\0';
	do {
		if (separators && n > 0 && n % 3 == 0)
			*--p = ',';
		*--p = symbols[divide_small(&value, base)];
		n++;
	} while (value != 0);
	return p;
}

/* prefix (a sign or 0x) and body, padded to the width. */
static void put_field(struct sink *sink, const struct spec *spec, const char *prefix, const char *body,
                      size_t body_length)
{
	int padding = spec->width - (int)text_length(prefix) - (int)body_length;

	if (!spec->left && !spec->zero)
		put_repeated(sink, ' ', padding);
	while (*prefix != '\0')
		put_char(sink, *prefix++);
	if (!spec->left && spec->zero)
		put_repeated(sink, '0', padding);
	for (size_t i = 0; i < body_length; i++)
		put_char(sink, body[i]);
	if (spec->left)
		put_repeated(sink, ' ', padding);
}

static void put_number(struct sink *sink, const struct spec *spec, uint64_t value, const char *prefix, uint32_t base,
                       bool upper)
{
	char buffer[DIGITS_SIZE];
	const char *digits = make_digits(buffer, value, base, upper, spec->separators && base == 10);

	put_field(sink, spec, prefix, digits, text_length(digits));
}

static void put_string(struct sink *sink, struct spec spec, const char *text)
{
	size_t length = 0;

	if (text == NULL)
		text = "(null)";
	while ((spec.precision < 0 || length < (size_t)spec.precision) && text[length] != '\0')
		length++;
	spec.zero = false;
	put_field(sink, &spec, "", text, length);
}

/* Digits of a width, or '*' from args. */
static int read_width(const char **format, va_list *args)
{
	int value = 0;

	if (**format == '*') {
		(*format)++;
		return va_arg(*args, int);
	}
	while (**format >= '0' && **format <= '9') {
		if (value < WIDTH_MAX)
			value = value * 10 + (**format - '0');
		(*format)++;
	}
	return value;
}

/* What stands between '%' and the conversion's letter. */
static struct spec read_spec(const char **format, va_list *args)
{
	struct spec spec = { .precision = -1 };

	for (;; (*format)++) {
		if (**format == '-')
			spec.left = true;
		else if (**format == '0')
			spec.zero = true;
		else if (**format == '+')
			spec.plus = true;
		else if (**format == '\'')
			spec.separators = true;
		else
			break;
	}
	spec.width = read_width(format, args);
	if (spec.width < 0) {
		spec.left = true;
		spec.width = -spec.width;
	}
	if (spec.width > WIDTH_MAX)
		spec.width = WIDTH_MAX;
	if (**format == '.') {
		(*format)++;
		spec.precision = read_width(format, args);
	}
	while (**format == 'l' || **format == 'z' || **format == 'j')
		spec.size = *(*format)++ == 'l' && spec.size == 'l' ? 'L' : (*format)[-1];
	return spec;
}

static uint64_t read_unsigned(char size, va_list *args)
{
	switch (size) {
	case 'l':
		return va_arg(*args, unsigned long);
	case 'L':
		return va_arg(*args, unsigned long long);
	case 'z':
		return va_arg(*args, size_t);
	case 'j':
		return va_arg(*args, uintmax_t);
	default:
		return va_arg(*args, unsigned);
	}
}

static int64_t read_signed(char size, va_list *args)
{
	switch (size) {
	case 'l':
		return va_arg(*args, long);
	case 'L':
		return va_arg(*args, long long);
	case 'z':
		return va_arg(*args, ptrdiff_t);
	case 'j':
		return va_arg(*args, intmax_t);
	default:
		return va_arg(*args, int);
	}
}

static void put_signed(struct sink *sink, const struct spec *spec, int64_t value)
{
	uint64_t magnitude = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;

	put_number(sink, spec, magnitude, value < 0 ? "-" : spec->plus ? "+" : "", 10, false);
}

/* One conversion; false: the letter is unknown and stands for itself. */
static bool put_conversion(struct sink *sink, char letter, const struct spec *spec, va_list *args)
{
	char c;

	switch (letter) {
	case '%':
		put_char(sink, '%');
		return true;
	case 'c':
		c = (char)va_arg(*args, int);
		put_field(sink, spec, "", &c, 1);
		return true;
	case 's':
		put_string(sink, *spec, va_arg(*args, const char *));
		return true;
	case 'd':
	case 'i':
		put_signed(sink, spec, read_signed(spec->size, args));
		return true;
	case 'u':
		put_number(sink, spec, read_unsigned(spec->size, args), spec->plus ? "+" : "", 10, false);
		return true;
	case 'x':
	case 'X':
		put_number(sink, spec, read_unsigned(spec->size, args), "", 16, letter == 'X');
		return true;
	case 'p':
		put_number(sink, spec, (uintptr_t)va_arg(*args, void *), "0x", 16, false);
		return true;
	default:
		return false;
	}
}

static void format_into(struct sink *sink, const char *format, va_list *args)
{
	while (*format != '\0') {
		const char *start = format;
		struct spec spec;

		if (*format++ != '%') {
			put_char(sink, *start);
			continue;
		}
		spec = read_spec(&format, args);
		if (*format != '\0' && put_conversion(sink, *format, &spec, args)) {
			format++;
			continue;
		}
		while (start < format)
			put_char(sink, *start++);
	}
}

int text_vformat(char *out, size_t size, const char *format, va_list args)
{
	struct sink sink = { .out = out, .size = size, .length = 0 };
	va_list copy;

	/* A copy, because a va_list parameter may be an array whose address is not that of a va_list. */
	va_copy(copy, args);
	format_into(&sink, format, &copy);
	va_end(copy);
	if (size > 0)
		out[sink.length < size ? sink.length : size - 1] = '\0';
	return (int)sink.length;
}

int text_format(char *out, size_t size, const char *format, ...)
{
	va_list args;
	int length;

	va_start(args, format);
	length = text_vformat(out, size, format, args);
	va_end(args);
	return length;
}

void text_print(struct host *host, const char *format, ...)
{
	char text[PRINT_SIZE];
	va_list args;

	va_start(args, format);
	(void)text_vformat(text, sizeof(text), format, args);
	va_end(args);
	host->write(host, text);
}

char *text_bytes(char *out, size_t size, uint64_t bytes)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	unsigned unit = 0;
	uint64_t scaled = bytes;

	while (scaled >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
		scaled >>= 10;
		unit++;
	}
	if (unit == 0) {
		text_format(out, size, "%u B", (unsigned)bytes);
	} else if (scaled >= 1000) {
		/* A fifth digit would change too often to be read. */
		text_format(out, size, "%u %s", (unsigned)scaled, units[unit]);
	} else {
		unsigned fraction = (unsigned)(bytes >> (10 * (unit - 1))) & 1023;

		text_format(out, size, "%u.%u %s", (unsigned)scaled, fraction * 10 / 1024, units[unit]);
	}
	return out;
}

size_t text_length(const char *text)
{
	size_t length = 0;

	while (text[length] != '\0')
		length++;
	return length;
}

int text_compare(const char *a, const char *b)
{
	while (*a != '\0' && *a == *b) {
		a++;
		b++;
	}
	return (int)(unsigned char)*a - (int)(unsigned char)*b;
}

static char lower_case(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

int text_compare_nocase(const char *a, const char *b)
{
	while (*a != '\0' && lower_case(*a) == lower_case(*b)) {
		a++;
		b++;
	}
	return (int)(unsigned char)lower_case(*a) - (int)(unsigned char)lower_case(*b);
}

void text_copy(char *out, size_t size, const char *text)
{
	size_t i = 0;

	if (size == 0)
		return;
	for (; i + 1 < size && text[i] != '\0'; i++)
		out[i] = text[i];
	out[i] = '\0';
}

static int digit_value(char c, unsigned base)
{
	int value = c >= '0' && c <= '9'                           ? c - '0'
	            : lower_case(c) >= 'a' && lower_case(c) <= 'f' ? lower_case(c) - 'a' + 10
	                                                           : -1;

	return value < (int)base ? value : -1;
}

bool text_number(const char *text, bool units, uint64_t *value)
{
	unsigned base = 10, shift = 0;
	uint64_t result = 0;
	const char *first;

	if (text[0] == '0' && lower_case(text[1]) == 'x') {
		base = 16;
		text += 2;
	}
	for (first = text; digit_value(*text, base) >= 0; text++) {
		uint64_t digit = (uint64_t)digit_value(*text, base);

		if (__builtin_mul_overflow(result, base, &result) || __builtin_add_overflow(result, digit, &result))
			return false;
	}
	if (text == first)
		return false;
	if (units && *text != '\0') {
		char unit = lower_case(*text++);

		shift = unit == 'k' ? 10 : unit == 'm' ? 20 : unit == 'g' ? 30 : 0;
		if (shift == 0 || result >> (64 - shift) != 0)
			return false;
	}
	if (*text != '\0')
		return false;
	*value = result << shift;
	return true;
}
