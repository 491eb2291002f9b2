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
#define HOST_PARALLEL_SECONDS 20

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

/* A file in a folder. */
struct host_file {
	char name[64];
	uint64_t size_bytes;
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

	/*
	 * The processor's own counter, read so that what comes before is done and what comes after has not begun;
	 * NULL: this host has none. Which clock its rate was measured against is said in words.
	 */
	uint64_t (*cycles)(struct host *host);
	uint64_t cycles_per_second;
	bool is_rate_steady; /* at every load and clock frequency: cycles can be told as time */
	char calibration[96];

	/*
	 * Keep the host's own work (firmware: event notifications) away from what is timed, for 2 ms at most. NULL: the
	 * host cannot. Between both nothing may be printed and no key read.
	 */
	void (*quiet_begin)(struct host *host);
	void (*quiet_end)(struct host *host);
	/* System management interrupts since the machine started; NULL, or false: the processor does not count them. */
	bool (*smi_count)(struct host *host, uint32_t *count);
	/*
	 * Run function(ctx, 0) ... function(ctx, n - 1) at the same time, each on a CPU of its own, and return when all
	 * have returned. False: not possible, and nothing ran, or is_processor_lost. NULL: the host cannot start CPUs.
	 * The function has 16 KiB of stack, may call nothing of the host but ticks, yield and (through a heap) pages, and
	 * must be done within HOST_PARALLEL_SECONDS where yield is NULL: there the CPU is stopped when it takes long.
	 */
	bool (*run_parallel)(struct host *host, unsigned n, void (*function)(void *ctx, unsigned index), void *ctx);
	/* run_parallel is NULL: why, in a sentence. */
	const char *why_one_cpu;
	/*
	 * A CPU did not come back and was stopped in the middle of its work, maybe with a lock taken: what it worked on
	 * must not be touched again.
	 */
	bool is_processor_lost;
	/*
	 * Between both, function(ctx) is called again and again on this CPU in the middle of whatever runs, as an
	 * interrupt handler would be; it may call the heap. NULL: this host interrupts nobody. False: it cannot.
	 */
	bool (*interrupts_begin)(struct host *host, void (*function)(void *ctx), void *ctx);
	void (*interrupts_end)(struct host *host);

	/* Let other threads have this CPU, in a wait inside run_parallel(). NULL: there are CPUs, but no threads. */
	void (*yield)(struct host *host);

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

	/*
	 * A whole file into pages, which the caller puts back through pages.put. False: *why is one sentence. Names may hold
	 * / or \ between folders; in the firmware they are those of the volume that the program came from.
	 */
	bool (*read_file)(struct host *host, const char *name, struct kpage_chunk *pages, size_t *size_bytes,
	                  const char **why);
	/* The files of a folder, in no order: at most n names; returns how many were filled in. */
	size_t (*list_files)(struct host *host, const char *folder, struct host_file *files, size_t n);

	/* Where the traces are that come with the program, as a folder for list_files. */
	const char *trace_folder;

	/* Both may return: then the machine refused. NULL: the host cannot (Linux). */
	void (*restart)(struct host *host);
	void (*power_off)(struct host *host);

	/* Engines that only this host has (firmware pool, libc malloc); NULL-terminated, may be NULL. */
	struct allocator *const *engines;
	/* Engines that are only measured, in the same form. */
	struct allocator *const *bench_engines;
};

#endif
