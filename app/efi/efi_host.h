/* SPDX-License-Identifier: MIT */
/*
 * What the files of the UEFI host offer each other. Only app/efi includes this; everything above sees struct host
 * and struct terminal. The program stays within boot services, at the task priority level it was started at, and
 * writes no variables.
 */
#ifndef EFI_HOST_H
#define EFI_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <efi.h>

#include "../suite/allocator.h"
#include "../suite/host.h"
#include "../ui/terminal.h"

/* Set by main.c before anything else runs. */
extern EFI_SYSTEM_TABLE *efi_system;
extern EFI_BOOT_SERVICES *efi_boot;

/* The protocol on that handle, or NULL. */
void *efi_protocol(EFI_HANDLE handle, const EFI_GUID *guid);
/* The first protocol of that kind on any handle, or NULL. */
void *efi_locate(const EFI_GUID *guid);
/* At most max_chars characters, or up to the NUL; what is not printable ASCII becomes '?'. */
void efi_to_ascii(char *out, size_t size, const CHAR16 *text, size_t max_chars);

/* pages.c: AllocatePages as a page source. */
void efi_pages_begin(struct host *host);
/* Frees every chunk that is still held; returns how many pages that were, which should be none. */
uint64_t efi_pages_end(void);
/* Pages outside that account, never at address 0; for the host's own tables. */
bool efi_pages_allocate(uint64_t n_pages, uint64_t max_address, uint64_t *base);
bool efi_pages_free(uint64_t base, uint64_t n_pages);

/* memory_map.c: GetMemoryMap, and the buffer that it needs. */
bool efi_memory_map_begin(struct host *host);
void efi_memory_map_end(void);
/* Conventional memory now; 0 when the firmware does not tell. */
uint64_t efi_memory_free_bytes(void);

/* console.c */
void efi_console_begin(struct host *host);
void efi_console_end(void);
/* The Shell redirects our output. */
bool efi_console_is_file(void);
struct terminal *efi_terminal(void);

/* keyboard.c */
void efi_keyboard_begin(struct host *host, bool from_shell);
void efi_keyboard_end(void);
bool efi_keyboard_is_present(void);

/* clock.c: the time stamp counter, its rate, and what CPUID says about the processor. */
void efi_clock_begin(struct host *host);

/* quiet.c: what keeps the firmware's own work away from what is timed, and counts what cannot be kept away. */
void efi_quiet_begin(struct host *host);

/* bench_pages.c: AllocatePages as an engine that is only measured. */
extern struct allocator efi_engine_pages;

/* acpi_timer.c: the ACPI power management timer, the one steady clock that nearly every PC has. */
#define ACPI_TIMER_HZ 3579545u
/* Its I/O port, or 0 when this machine has none. */
uint16_t efi_acpi_timer_port(void);

/* processors.c: how many processors there are, and work for all of them. */
void efi_processors_begin(struct host *host);

/*
 * errands.c: function(argument) on the boot processor, at TPL_NOTIFY, whoever asks; returns when it is done. False: the boot processor
 * did not come by, and it was not done. Other processors may ask between begin and end.
 */
bool efi_errand(void (*function)(void *argument), void *argument);
/* Is there one to be done? Cheap, on any processor. */
void efi_errands_look(void);
bool efi_errands_begin(const struct host *host);
void efi_errands_end(void);

/* interrupts.c: notification functions in the middle of whatever runs. */
void efi_interrupts_begin(struct host *host);

/* files.c: files of the volume that the program came from. */
void efi_files_begin(struct host *host, EFI_HANDLE image);

/* watchdog.c */
void efi_watchdog_begin(struct host *host, bool from_shell);
void efi_watchdog_end(void);

/* power.c */
void efi_power_begin(struct host *host);

/* pool.c: AllocatePool as an engine. */
extern struct allocator efi_engine_pool;

/* arguments.c */
struct efi_arguments {
	int count;
	char **words;
	bool from_shell;   /* started by a UEFI Shell, not by the boot manager */
	const char *wrong; /* NULL, or why they could not be taken over */
};
/* The words after the program's own name. They live until the program ends. */
void efi_arguments_get(EFI_HANDLE image, struct efi_arguments *arguments);

#endif
