/* SPDX-License-Identifier: MIT */
/*
 * What the suite and the screens need of the machine they run on. The firmware (app/efi) and Linux (app/linux) each
 * fill in one `struct host`; nothing in app/suite or app/ui knows which. Text is ASCII, lines end in '\n'.
 */
#ifndef SUITE_HOST_H
#define SUITE_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kmalloc.h>

/* Keys: printable ASCII stands for itself, Enter is '\r' whatever the keyboard sent, and these. */
enum host_key {
	HOST_KEY_NONE = 0,
	HOST_KEY_BACKSPACE = 8,
	HOST_KEY_TAB = 9,
	HOST_KEY_ENTER = 13,
	HOST_KEY_ESC = 27,
	HOST_KEY_UP = 0x100,
	HOST_KEY_DOWN,
	HOST_KEY_LEFT,
	HOST_KEY_RIGHT,
	HOST_KEY_HOME,
	HOST_KEY_END,
	HOST_KEY_PAGE_UP,
	HOST_KEY_PAGE_DOWN,
};

#define HOST_WAIT_FOREVER UINT32_MAX

/* One range of the machine's memory map, in the firmware's (or the kernel's) own words. */
struct host_memory_range {
	uint64_t base;
	uint64_t size_bytes;
	uint64_t attributes; /* EFI_MEMORY_... bits; 0 on Linux */
	bool is_free;        /* the firmware's allocator may hand it out (conventional memory) */
	char type[28];       /* "conventional", "loader data", ... */
};

/* Pages held or free, as the host counts them. */
struct host_memory {
	uint64_t total_bytes;        /* all RAM in the map */
	uint64_t free_bytes;         /* free to use now */
	uint64_t largest_free_bytes; /* in one range */
};

struct host {
	void *ctx; /* the host's own */

	/* Who this is, for the Home screen and `info`. Never NULL, may be empty. */
	char platform[16];      /* "UEFI", "Linux" */
	char architecture[16];  /* "x86_64" */
	char firmware[80];      /* "EDK II 1.0": vendor and revision; on Linux "Linux 6.1.0" */
	char specification[24]; /* "UEFI 2.70"; on Linux "" */
	char cpu[64];           /* brand string */
	char clock[40];         /* "TSC 2.445 GHz" */
	unsigned n_cpus;
	bool is_virtual_machine; /* times are then not comparable */

	/* A clock that never goes back. */
	uint64_t (*ticks)(struct host *host);
	uint64_t ticks_per_second;

	/* Sequential output: no cursor moves, may be redirected to a file. */
	void (*write)(struct host *host, const char *text);

	/*
	 * The next key, HOST_KEY_NONE after timeout_ms without one. Esc is returned only when it is Esc: a lone
	 * one, not the first byte of an unknown sequence. timeout 0 polls.
	 */
	int (*read_key)(struct host *host, uint32_t timeout_ms);
	void (*flush_keys)(struct host *host);

	/*
	 * "I am alive": re-arms the watchdog while work goes on; cheap to call often. waiting == true: a human is
	 * reading, the watchdog is off until the next call with false.
	 */
	void (*alive)(struct host *host, bool waiting);

	/*
	 * Pages for heaps and tables: every chunk that is got is put back, whole. A source that tries what is
	 * wanted and halves down to what is needed, and keeps the firmware its share.
	 */
	struct kpage_source pages;
	/* The most that a heap may take now, leaving the firmware its share; recomputed at each call. */
	uint64_t (*heap_limit)(struct host *host);

	void (*memory)(struct host *host, struct host_memory *memory);
	/* The map in address order; returns how many ranges there are, fills in at most n. */
	size_t (*memory_map)(struct host *host, struct host_memory_range *ranges, size_t n);

	/* A number that differs from run to run, for heap secrets (never for seeds). */
	uint64_t (*entropy)(struct host *host);

	/* Both may return: then the machine refused. NULL: the host cannot (Linux). */
	void (*restart)(struct host *host);
	void (*power_off)(struct host *host);

	/* Engines that only this host has (firmware pool, libc malloc); NULL-terminated, may be NULL. */
	struct allocator *const *engines;
};

#endif
