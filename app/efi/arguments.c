/* SPDX-License-Identifier: MIT */
/*
 * The words that the program was started with, as ASCII: from the Shell's protocol, or else from the load options
 * of the boot entry, which may be UCS-2 or ASCII text, or binary data that means nothing to us, at any address and
 * without an end.
 */
#include "../suite/text.h"
#include "efi_host.h"

#define MAX_WORDS 32
#define MAX_TEXT 1024

static char text[MAX_TEXT];
static char *words[MAX_WORDS];

static void from_shell(const EFI_SHELL_PARAMETERS_PROTOCOL *parameters, struct efi_arguments *arguments)
{
	size_t used = 0;

	for (UINTN i = 1; i < parameters->Argc; i++) {
		const CHAR16 *word = parameters->Argv[i];
		size_t length = 0;

		while (word[length]) {
			length++;
		}
		if (arguments->count == MAX_WORDS || length >= MAX_TEXT - used) {
			arguments->wrong = "There are too many arguments.";
			return;
		}
		efi_to_ascii(text + used, MAX_TEXT - used, word, length);
		words[arguments->count++] = text + used;
		used += length + 1;
	}
}

static bool is_text(unsigned c)
{
	return (c >= ' ' && c <= '~') || c == '\t';
}

/*
 * Load options as ASCII in `text`; false when they are no text. efibootmgr writes ASCII unless told otherwise,
 * boot managers write UCS-2, and the entries that firmware makes by itself may hold anything.
 */
static bool copy_options(const uint8_t *options, size_t size, bool *is_too_long)
{
	size_t width = size >= 2 && options[1] != 0 && !(options[0] == 0xff && options[1] == 0xfe) ? 1 : 2;
	size_t n = 0;

	for (size_t at = 0; at + width <= size; at += width) {
		unsigned c = options[at] | (width == 2 ? (unsigned)options[at + 1] << 8 : 0);
		if (c == 0)
			break;
		if (c == 0xfeff && at == 0)
			continue;
		if (!is_text(c))
			return false;
		if (n == MAX_TEXT - 1) {
			*is_too_long = true;
			return false;
		}
		text[n++] = (char)c;
	}
	text[n] = '\0';
	return true;
}

/* Cut `text` at blanks, in place; quotes hold blanks together and are dropped. */
static void split(struct efi_arguments *arguments)
{
	const char *from = text;
	char *to = text;

	for (;;) {
		bool is_quoted = false;

		while (*from == ' ' || *from == '\t') {
			from++;
		}
		if (!*from)
			return;
		if (arguments->count == MAX_WORDS) {
			arguments->wrong = "There are too many arguments.";
			return;
		}
		words[arguments->count++] = to;
		for (; *from && (is_quoted || (*from != ' ' && *from != '\t')); from++) {
			if (*from == '"')
				is_quoted = !is_quoted;
			else
				*to++ = *from;
		}
		if (*from)
			from++;
		*to++ = '\0';
	}
}

/*
 * Shells before the protocol put the program's name in front; boot entries do not. No argument of ours looks like
 * one.
 */
static bool is_program_name(const char *word)
{
	size_t length = text_length(word);

	for (size_t i = 0; i < length; i++) {
		if (word[i] == '\\')
			return true;
	}
	return !text_compare_nocase(word, "kmalloc") || (length > 4 && !text_compare_nocase(word + length - 4, ".efi"));
}

void efi_arguments_get(EFI_HANDLE image, struct efi_arguments *arguments)
{
	static const EFI_GUID parameters_guid = EFI_SHELL_PARAMETERS_PROTOCOL_GUID;
	static const EFI_GUID image_guid = EFI_LOADED_IMAGE_PROTOCOL_GUID;
	const EFI_SHELL_PARAMETERS_PROTOCOL *parameters = efi_protocol(image, &parameters_guid);
	const EFI_LOADED_IMAGE *loaded;
	bool is_too_long = false;

	*arguments = (struct efi_arguments){ .words = words, .from_shell = parameters != NULL };
	if (parameters) {
		from_shell(parameters, arguments);
		return;
	}
	loaded = efi_protocol(image, &image_guid);
	if (!loaded || !loaded->LoadOptions)
		return;
	if (!copy_options(loaded->LoadOptions, loaded->LoadOptionsSize, &is_too_long)) {
		if (is_too_long)
			arguments->wrong = "The arguments are too long.";
		return;
	}
	split(arguments);
	if (arguments->count > 0 && is_program_name(words[0])) {
		arguments->words++;
		arguments->count--;
	}
}
