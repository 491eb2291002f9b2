/* SPDX-License-Identifier: MIT */
/*
 * Keys in. From a terminal in raw mode they are decoded from its escape sequences, and Esc is reported only when it
 * stands alone. Without one, nothing is read: a command may run in the background, and its only key is Ctrl-C.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../suite/keys.h"
#include "linux_host.h"

/* The bytes of an escape sequence follow each other at once; a person does not type as fast. */
#define SEQUENCE_MS 50

#define BYTE_NONE KEYS_NO_BYTE
#define BYTE_ESC 27
#define BYTE_DEL 127

static struct terminal *terminal; /* NULL: no keys but Ctrl-C */
static int pushed_back = BYTE_NONE;
static volatile sig_atomic_t is_interrupted, is_resized;

/*
 * The first Ctrl-C asks the run to stop; one that comes later ends a program that does not listen. At once it is the
 * same again: some programs send it both to their child and to its group.
 */
static void on_interrupt(int number)
{
	static volatile sig_atomic_t first_second;
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	if (is_interrupted && (sig_atomic_t)now.tv_sec - first_second > 1) {
		signal(number, SIG_DFL);
		raise(number);
	}
	if (!is_interrupted)
		first_second = (sig_atomic_t)now.tv_sec;
	is_interrupted = 1;
}

static void on_resize(int number)
{
	(void)number;
	is_resized = 1;
}

static void handle(int number, void (*handler)(int))
{
	struct sigaction action;

	memset(&action, 0, sizeof(action));
	action.sa_handler = handler;
	sigaction(number, &action, NULL);
}

static uint64_t now_ms(struct host *host)
{
	return host->ticks(host) / (host->ticks_per_second / 1000);
}

/* The next byte, or BYTE_NONE after timeout_ms or when the terminal changes its size. */
static int read_byte(uint32_t timeout_ms)
{
	struct pollfd input = { .fd = STDIN_FILENO, .events = POLLIN };
	struct timespec timeout = { timeout_ms / 1000, (long)(timeout_ms % 1000) * 1000000 };
	sigset_t resize, unblocked;
	unsigned char byte;
	int byte_read = pushed_back;

	pushed_back = BYTE_NONE;
	if (byte_read != BYTE_NONE)
		return byte_read;
	/* SIGWINCH may come at any time but must end the wait, so it is only let in while waiting. */
	sigemptyset(&resize);
	sigaddset(&resize, SIGWINCH);
	sigprocmask(SIG_BLOCK, &resize, &unblocked);
	sigdelset(&unblocked, SIGWINCH);
	int n = is_resized ? 0 : ppoll(&input, 1, timeout_ms == HOST_WAIT_FOREVER ? NULL : &timeout, &unblocked);
	sigprocmask(SIG_SETMASK, &unblocked, NULL);
	if (n <= 0)
		return BYTE_NONE;
	ssize_t n_read = read(STDIN_FILENO, &byte, 1);
	if (n_read == 1)
		return byte;
	if (n_read < 0 && (errno == EINTR || errno == EAGAIN))
		return BYTE_NONE;
	/* The terminal has gone: nobody can answer any question. */
	terminal->end(terminal);
	fputs("kmalloc: the terminal was closed, so the menu ends.\n", stderr);
	exit(2);
}

static int next_of_sequence(void)
{
	return read_byte(SEQUENCE_MS);
}

/* After an Esc: the key itself, or the first byte of a sequence. */
static int decode_escape(void)
{
	int byte = read_byte(SEQUENCE_MS);

	if (byte == '[' || byte == 'O')
		return keys_sequence(byte, next_of_sequence);
	pushed_back = byte;
	return HOST_KEY_ESC;
}

static int decode(int byte)
{
	switch (byte) {
	case '\r':
	case '\n':
		return HOST_KEY_ENTER;
	case HOST_KEY_BACKSPACE:
	case BYTE_DEL:
		return HOST_KEY_BACKSPACE;
	case HOST_KEY_TAB:
	case KEY_REDRAW:
		return byte;
	case BYTE_ESC:
		return decode_escape();
	default:
		return byte >= ' ' && byte < BYTE_DEL ? byte : HOST_KEY_NONE;
	}
}

static int wait_without_terminal(struct host *host, uint32_t timeout_ms)
{
	uint64_t began = now_ms(host);

	while (!is_interrupted) {
		uint64_t gone = now_ms(host) - began;
		if (timeout_ms != HOST_WAIT_FOREVER && gone >= timeout_ms)
			return HOST_KEY_NONE;
		/* A signal ends it early. */
		poll(NULL, 0, timeout_ms == HOST_WAIT_FOREVER ? -1 : (int)(timeout_ms - gone));
	}
	/* It stays so: who typed Ctrl-C is not asked again. */
	return HOST_KEY_ESC;
}

static int read_key(struct host *host, uint32_t timeout_ms)
{
	uint64_t began = now_ms(host);
	uint32_t left = timeout_ms;

	if (terminal == NULL)
		return wait_without_terminal(host, timeout_ms);
	for (;;) {
		int byte = read_byte(left);
		int key = byte == BYTE_NONE ? HOST_KEY_NONE : decode(byte);
		if (key != HOST_KEY_NONE)
			return key;
		if (is_resized) {
			is_resized = 0;
			linux_terminal_measure(terminal);
			return KEY_REDRAW;
		}
		if (timeout_ms == HOST_WAIT_FOREVER)
			continue;
		uint64_t gone = now_ms(host) - began;
		if (gone >= timeout_ms)
			return HOST_KEY_NONE;
		left = timeout_ms - (uint32_t)gone;
	}
}

static void flush_keys(struct host *host)
{
	(void)host;
	while (terminal != NULL && read_byte(0) != BYTE_NONE) {
	}
}

void linux_keyboard_attach(struct terminal *attached)
{
	terminal = attached;
	handle(SIGWINCH, on_resize);
}

void linux_keyboard_detach(void)
{
	terminal = NULL;
	handle(SIGWINCH, SIG_DFL);
}

void linux_keyboard_begin(struct host *host)
{
	host->read_key = read_key;
	host->flush_keys = flush_keys;
	handle(SIGINT, on_interrupt);
}
