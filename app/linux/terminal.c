/* SPDX-License-Identifier: MIT */
/*
 * An ANSI terminal as a grid of cells. Only sequences that every terminal of the last thirty years knows. Whatever
 * ends the program, a signal included, the terminal is put back as it was found.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "linux_host.h"

#define DEFAULT_COLUMNS 80
#define DEFAULT_ROWS 24

/* The alternate screen keeps what was there; the cursor is hidden. And back. */
#define ENTER_SCREEN "\033[?1049h\033[?25l\033[0m\033[2J"
#define LEAVE_SCREEN "\033[0m\033[2J\033[?25h\033[?1049l"

static const char *const styles[STYLE_N] = {
	[STYLE_NORMAL] = "\033[0m",     [STYLE_DIM] = "\033[0;2m",     [STYLE_BRIGHT] = "\033[0;1m",
	[STYLE_SELECTED] = "\033[0;7m", [STYLE_GOOD] = "\033[0;1;32m", [STYLE_BAD] = "\033[0;1;31m",
};

static struct terminal terminal;
static struct termios found;
static volatile sig_atomic_t is_raw;

static void send(const char *bytes, size_t n)
{
	while (n > 0) {
		ssize_t written = write(STDOUT_FILENO, bytes, n);
		if (written <= 0)
			return; /* the terminal has gone; the next key says so */
		bytes += written;
		n -= (size_t)written;
	}
}

/* Safe in a signal handler. */
static void put_back(void)
{
	if (!is_raw)
		return;
	is_raw = 0;
	send(LEAVE_SCREEN, sizeof(LEAVE_SCREEN) - 1);
	tcsetattr(STDIN_FILENO, TCSAFLUSH, &found);
}

static void on_fatal_signal(int number)
{
	put_back();
	signal(number, SIG_DFL);
	raise(number);
}

/* The signals that end a program, unless somebody else (a sanitizer) waits for them. */
static void catch_fatal_signals(void)
{
	static const int numbers[] = { SIGINT,  SIGTERM, SIGHUP, SIGQUIT, SIGABRT,
		                       SIGSEGV, SIGBUS,  SIGILL, SIGFPE,  SIGTRAP };
	struct sigaction action, old;

	memset(&action, 0, sizeof(action));
	action.sa_handler = on_fatal_signal;
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		/* Ctrl-C is a stop request for commands; a menu has Esc for that, so here it ends the program. */
		if (numbers[i] == SIGINT || (sigaction(numbers[i], NULL, &old) == 0 && old.sa_handler == SIG_DFL))
			sigaction(numbers[i], &action, NULL);
}

void linux_terminal_measure(struct terminal *self)
{
	struct winsize size;

	self->columns = DEFAULT_COLUMNS;
	self->rows = DEFAULT_ROWS;
	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_row > 0) {
		self->columns = size.ws_col;
		self->rows = size.ws_row;
	}
}

static void begin(struct terminal *self)
{
	struct termios raw;

	if (tcgetattr(STDIN_FILENO, &found) != 0)
		return;
	raw = found;
	/*
	 * Each key at once and unseen; Ctrl-C still ends a program that hangs, Ctrl-Z would leave the terminal like
	 * this.
	 */
	raw.c_iflag &= ~(tcflag_t)(ICRNL | INLCR | IGNCR | IXON);
	raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO | IEXTEN);
	raw.c_cc[VSUSP] = _POSIX_VDISABLE;
	raw.c_cc[VMIN] = 1;
	raw.c_cc[VTIME] = 0;
	catch_fatal_signals();
	is_raw = 1;
	tcsetattr(STDIN_FILENO, TCSAFLUSH, &raw);
	send(ENTER_SCREEN, sizeof(ENTER_SCREEN) - 1);
	linux_terminal_measure(self);
	linux_keyboard_attach(self);
}

static void end(struct terminal *self)
{
	(void)self;
	linux_keyboard_detach();
	put_back();
}

static void clear(struct terminal *self)
{
	static const char sequence[] = "\033[0m\033[2J";

	(void)self;
	send(sequence, sizeof(sequence) - 1);
}

static void put(struct terminal *self, unsigned row, unsigned column, enum style style, const char *text, size_t n)
{
	char bytes[512];

	(void)self;
	/* A row of cells and its sequences always fit; what follows guards against a caller with longer rows. */
	int length =
		snprintf(bytes, sizeof(bytes), "\033[%u;%uH%s%.*s", row + 1, column + 1, styles[style], (int)n, text);
	if (length > 0)
		send(bytes, (size_t)length < sizeof(bytes) ? (size_t)length : sizeof(bytes) - 1);
}

bool linux_terminal_is_present(void)
{
	return isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
}

struct terminal *linux_terminal(void)
{
	terminal = (struct terminal){ .begin = begin, .end = end, .clear = clear, .put = put };
	linux_terminal_measure(&terminal);
	return &terminal;
}
