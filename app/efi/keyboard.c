/* SPDX-License-Identifier: MIT */
/*
 * Keys in. One protocol is read, never two: SimpleTextInputEx on the console's own handle, or else ConIn. Firmware
 * hands over the keys of a serial line half decoded, so the rest of the decoding is here, and Esc is only reported
 * when it stands alone.
 */
#include "../suite/keys.h"
#include "efi_host.h"

/* The bytes of an escape sequence follow each other at once; a person does not type as fast. */
#define SEQUENCE_MS 80
/* A wait without end is made of pieces, for firmware that loses a key's event. */
#define PIECE_MS 1000
#define POLL_MS 10
/* More than fits into any keyboard's buffer. */
#define FLUSH_KEYS 256
#define FLUSH_MS 50

/* Younger than our headers: the rockers at the side of a tablet. */
#define SCAN_VOLUME_UP 0x80
#define SCAN_VOLUME_DOWN 0x81

#define CHAR_CTRL_C 0x03
#define CHAR_CTRL_L 0x0c /* redraw, to terminals and those at them */
#define CHAR_ESC 0x1b
#define CHAR_DEL 0x7f

static EFI_SIMPLE_TEXT_INPUT_EX_PROTOCOL *input_ex;
static SIMPLE_INPUT_INTERFACE *input;
static EFI_SHELL_PROTOCOL *shell; /* only when started by it: it watches for Ctrl-C */
static EFI_EVENT timer;
static EFI_INPUT_KEY pushed_back;
static bool has_pushed_back;

/*
 * With InputEx, Ctrl and a letter come as the letter and a shift state; make it the control character that a
 * serial line sends.
 */
static void apply_ctrl(EFI_KEY_DATA *data)
{
	UINT32 shift = data->KeyState.KeyShiftState;
	CHAR16 letter = data->Key.UnicodeChar | 0x20;

	if ((shift & EFI_SHIFT_STATE_VALID) && (shift & (EFI_LEFT_CONTROL_PRESSED | EFI_RIGHT_CONTROL_PRESSED)) &&
	    letter >= 'a' && letter <= 'z')
		data->Key.UnicodeChar = (CHAR16)(letter & 0x1f);
}

/* What the firmware has now, without waiting. */
static bool poll(EFI_INPUT_KEY *key)
{
	if (has_pushed_back) {
		*key = pushed_back;
		has_pushed_back = false;
		return true;
	}
	if (shell && !EFI_ERROR(efi_boot->CheckEvent(shell->ExecutionBreak))) {
		*key = (EFI_INPUT_KEY){ .UnicodeChar = CHAR_CTRL_C };
		return true;
	}
	if (input_ex) {
		EFI_KEY_DATA data = { 0 };
		if (EFI_ERROR(input_ex->ReadKeyStrokeEx(input_ex, &data)))
			return false;
		apply_ctrl(&data);
		*key = data.Key;
	} else if (!input || EFI_ERROR(input->ReadKeyStroke(input, key))) {
		return false;
	}
	/* The Shell has told us of Ctrl-C already. */
	return !(shell && key->UnicodeChar == CHAR_CTRL_C);
}

/* Without the signal that may be left from the last time. */
static bool start_timer(uint32_t timeout_ms)
{
	if (!timer || EFI_ERROR(efi_boot->SetTimer(timer, TimerCancel, 0)))
		return false;
	efi_boot->CheckEvent(timer);
	return !EFI_ERROR(efi_boot->SetTimer(timer, TimerRelative, (UINT64)timeout_ms * 10000));
}

/* poll(), for at most timeout_ms. */
static bool wait(EFI_INPUT_KEY *key, uint32_t timeout_ms)
{
	EFI_EVENT events[2] = { timer, input_ex ? input_ex->WaitForKeyEx : input ? input->WaitForKey : NULL };
	UINTN n_events = events[1] ? 2 : 1, which;
	bool has_events;
	uint32_t waited_ms = 0;

	if (poll(key))
		return true;
	if (timeout_ms == 0)
		return false;
	has_events = start_timer(timeout_ms);
	while (!poll(key)) {
		if (waited_ms >= timeout_ms)
			return false;
		/* The timer comes first, because some firmware's key event is always signalled. */
		if (has_events && !EFI_ERROR(efi_boot->WaitForEvent(n_events, events, &which))) {
			if (which == 0)
				waited_ms = timeout_ms;
			continue;
		}
		has_events = false;
		efi_boot->Stall(POLL_MS * 1000);
		waited_ms += POLL_MS;
	}
	return true;
}

static int next_of_sequence(void)
{
	EFI_INPUT_KEY key;

	return wait(&key, SEQUENCE_MS) ? (int)key.UnicodeChar : KEYS_NO_BYTE;
}

/*
 * After an Esc: was it the key, or the first byte of a sequence that the firmware's terminal driver does not know?
 * EDK II's passes on ESC O P (F1), ESC [ 5 ~ (Page Up) and the like as Esc followed by letters.
 */
static int decode_escape(void)
{
	EFI_INPUT_KEY key;

	if (!wait(&key, SEQUENCE_MS))
		return HOST_KEY_ESC;
	if (key.ScanCode == SCAN_NULL && (key.UnicodeChar == '[' || key.UnicodeChar == 'O'))
		return keys_sequence(key.UnicodeChar, next_of_sequence);
	pushed_back = key;
	has_pushed_back = true;
	return HOST_KEY_ESC;
}

static int decode_scan_code(UINT16 scan_code)
{
	switch (scan_code) {
	case SCAN_UP:
	case SCAN_VOLUME_UP:
		return HOST_KEY_UP;
	case SCAN_DOWN:
	case SCAN_VOLUME_DOWN:
		return HOST_KEY_DOWN;
	case SCAN_LEFT:
		return HOST_KEY_LEFT;
	case SCAN_RIGHT:
		return HOST_KEY_RIGHT;
	case SCAN_HOME:
		return HOST_KEY_HOME;
	case SCAN_END:
		return HOST_KEY_END;
	case SCAN_PAGE_UP:
		return HOST_KEY_PAGE_UP;
	case SCAN_PAGE_DOWN:
		return HOST_KEY_PAGE_DOWN;
	case SCAN_DELETE: /* what a serial terminal's backspace key becomes */
		return HOST_KEY_BACKSPACE;
	case SCAN_F3: /* Enter with its character in the wrong field: EZpad Mini 4s, Teclast X98+ II */
		return HOST_KEY_ENTER;
	case SCAN_ESC:
		return decode_escape();
	default:
		return HOST_KEY_NONE;
	}
}

static int decode(const EFI_INPUT_KEY *key)
{
	CHAR16 c = key->UnicodeChar;

	if (key->ScanCode != SCAN_NULL)
		return decode_scan_code(key->ScanCode);
	switch (c) {
	case CHAR_CARRIAGE_RETURN:
	case CHAR_LINEFEED:
		return HOST_KEY_ENTER;
	case CHAR_BACKSPACE:
	case CHAR_DEL:
		return HOST_KEY_BACKSPACE;
	case CHAR_TAB:
		return HOST_KEY_TAB;
	case CHAR_CTRL_L:
		return CHAR_CTRL_L;
	case CHAR_ESC:
		return decode_escape();
	case CHAR_CTRL_C: /* "stop", wherever it is typed */
		return HOST_KEY_ESC;
	default:
		return c >= ' ' && c < CHAR_DEL ? (int)c : HOST_KEY_NONE;
	}
}

static int read_key(struct host *host, uint32_t timeout_ms)
{
	uint64_t start = host->ticks(host);
	uint64_t ticks_per_ms = host->ticks_per_second / 1000;
	EFI_INPUT_KEY key;
	int decoded;

	for (;;) {
		uint64_t gone_ms = (host->ticks(host) - start) / ticks_per_ms;
		uint32_t left_ms = PIECE_MS;

		if (timeout_ms != HOST_WAIT_FOREVER) {
			uint64_t rest_ms = gone_ms < timeout_ms ? timeout_ms - gone_ms : 0;
			if (rest_ms < left_ms)
				left_ms = (uint32_t)rest_ms;
		}
		if (wait(&key, left_ms)) {
			decoded = decode(&key);
			if (decoded != HOST_KEY_NONE)
				return decoded;
		} else if (left_ms < PIECE_MS) {
			return HOST_KEY_NONE;
		}
	}
}

/* Reset alone is not enough: some firmware keeps keys over it. */
static void flush_keys(struct host *host)
{
	EFI_INPUT_KEY key;

	(void)host;
	has_pushed_back = false;
	if (input_ex)
		input_ex->Reset(input_ex, FALSE);
	else if (input)
		input->Reset(input, FALSE);
	for (int i = 0; i < FLUSH_KEYS && wait(&key, FLUSH_MS); i++) {
	}
}

/* Some firmware offers an InputEx that is none: its event is not one. */
static bool is_genuine(EFI_SIMPLE_TEXT_INPUT_EX_PROTOCOL *protocol)
{
	return protocol && protocol->WaitForKeyEx &&
	       efi_boot->CheckEvent(protocol->WaitForKeyEx) != EFI_INVALID_PARAMETER;
}

void efi_keyboard_begin(struct host *host, bool from_shell)
{
	static const EFI_GUID input_ex_guid = EFI_SIMPLE_TEXT_INPUT_EX_PROTOCOL_GUID;
	static const EFI_GUID shell_guid = EFI_SHELL_PROTOCOL_GUID;

	input_ex = efi_protocol(efi_system->ConsoleInHandle, &input_ex_guid);
	if (!is_genuine(input_ex))
		input_ex = NULL;
	input = efi_system->ConIn;
	shell = from_shell ? efi_locate(&shell_guid) : NULL;
	/* A Ctrl-C from before is not ours; and one that cannot be asked for is none. */
	if (shell && (!shell->ExecutionBreak || efi_boot->CheckEvent(shell->ExecutionBreak) == EFI_INVALID_PARAMETER))
		shell = NULL;
	if (EFI_ERROR(efi_boot->CreateEvent(EVT_TIMER, TPL_APPLICATION, NULL, NULL, &timer)))
		timer = NULL;
	host->read_key = read_key;
	host->flush_keys = flush_keys;
}

bool efi_keyboard_is_present(void)
{
	return input_ex || input;
}

void efi_keyboard_end(void)
{
	if (timer) {
		efi_boot->SetTimer(timer, TimerCancel, 0);
		efi_boot->CloseEvent(timer);
		timer = NULL;
	}
}
