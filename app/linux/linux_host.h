/* SPDX-License-Identifier: MIT */
/*
 * What the files of the Linux host offer each other. Only app/linux includes this; everything above sees struct host
 * and struct terminal.
 */
#ifndef LINUX_HOST_H
#define LINUX_HOST_H

#include "../suite/allocator.h"
#include "../suite/host.h"
#include "../ui/terminal.h"

/* Where redraws are asked for: what Ctrl-L sends. */
#define KEY_REDRAW 12

/* host.c: everything of struct host but keys, memory and pages. */
void linux_host_begin(struct host *host);

/* cycles.c: the time stamp counter, where there is one. */
void linux_cycles_begin(struct host *host);

/* parallel.c: functions on several CPUs at once. */
void linux_parallel_begin(struct host *host);

/* pages.c: mmap as a page source. */
void linux_pages_begin(struct host *host);
/* Chunks that were got and not put back; 0 at the end of a sound run. */
uint64_t linux_pages_held(void);

/* memory.c: /proc/meminfo and /proc/self/maps. */
void linux_memory_begin(struct host *host);
/* What the kernel could still give without swapping; 0 when it does not say. */
uint64_t linux_memory_available(void);

/* keyboard.c: keys of a terminal in raw mode; without one, only Ctrl-C, which becomes Esc. */
void linux_keyboard_begin(struct host *host);
/* From now on stdin is a terminal in raw mode. */
void linux_keyboard_attach(struct terminal *terminal);
void linux_keyboard_detach(void);

/* terminal.c: an ANSI terminal on stdin and stdout. */
struct terminal *linux_terminal(void);
bool linux_terminal_is_present(void);
/* The size as it is now. */
void linux_terminal_measure(struct terminal *terminal);

/* files.c: whole files into pages of the page source. */
void linux_files_begin(struct host *host);

/* libc.c: malloc of the C library as an engine. */
extern struct allocator linux_engine_libc;

#endif
