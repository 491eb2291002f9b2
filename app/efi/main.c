/* SPDX-License-Identifier: MIT */
/*
 * The UEFI program's life: fill in the host, read the arguments, run a command or the menu, give everything back,
 * and tell the firmware how it went. There is one way out, so nothing is left behind on any.
 */
#include "../suite/suite.h"
#include "../suite/text.h"
#include "../ui/ui.h"
#include "efi_host.h"

EFI_SYSTEM_TABLE *efi_system;
EFI_BOOT_SERVICES *efi_boot;

static struct allocator *const engines[] = { &efi_engine_pool, NULL };
static struct allocator *const bench_engines[] = { &efi_engine_pages, NULL };
static struct host host;

EFI_STATUS efi_main(EFI_HANDLE image, EFI_SYSTEM_TABLE *system);

void *efi_protocol(EFI_HANDLE handle, const EFI_GUID *guid)
{
	EFI_GUID copy = *guid; /* the firmware's prototype is not const */
	VOID *protocol = NULL;

	if (!handle || EFI_ERROR(efi_boot->HandleProtocol(handle, &copy, &protocol)))
		return NULL;
	return protocol;
}

void *efi_locate(const EFI_GUID *guid)
{
	EFI_GUID copy = *guid;
	VOID *protocol = NULL;

	if (EFI_ERROR(efi_boot->LocateProtocol(&copy, NULL, &protocol)))
		return NULL;
	return protocol;
}

void efi_to_ascii(char *out, size_t size, const CHAR16 *text, size_t max_chars)
{
	size_t n = 0;

	for (; n + 1 < size && n < max_chars && text[n]; n++) {
		out[n] = text[n] >= ' ' && text[n] <= '~' ? (char)text[n] : '?';
	}
	out[n] = '\0';
}

static void describe_platform(void)
{
	UINT32 revision = efi_system->FirmwareRevision;
	UINT32 specification = efi_system->Hdr.Revision;
	UINT32 minor = specification & 0xffff; /* 2.7 is 70, 2.3.1 is 31 */
	char vendor[56] = "firmware";

	if (efi_system->FirmwareVendor)
		efi_to_ascii(vendor, sizeof(vendor), efi_system->FirmwareVendor, sizeof(vendor));
	text_copy(host.platform, sizeof(host.platform), "UEFI");
	text_copy(host.architecture, sizeof(host.architecture), sizeof(void *) == 8 ? "x86_64" : "ia32");
	text_format(host.firmware, sizeof(host.firmware), "%s %u.%u", vendor, revision >> 16, revision & 0xffff);
	if (minor % 10)
		text_format(host.specification, sizeof(host.specification), "UEFI %u.%u.%u", specification >> 16,
		            minor / 10, minor % 10);
	else
		text_format(host.specification, sizeof(host.specification), "UEFI %u.%u", specification >> 16,
		            minor / 10);
	host.engines = engines;
	host.bench_engines = bench_engines;
}

static EFI_STATUS exit_status(enum suite_outcome outcome, const struct suite_options *options)
{
	switch (outcome) {
	case SUITE_PASSED:
		return EFI_SUCCESS;
	case SUITE_STOPPED:
		return EFI_ABORTED;
	case SUITE_CANNOT_RUN:
		/* There is no such group, or none of its cases can run here. */
		if (options->command == SUITE_SCALE || options->group)
			return EFI_UNSUPPORTED;
		if (options->command == SUITE_REPLAY)
			return EFI_LOAD_ERROR;
		/* For want of memory, unless there is no such engine. */
		return suite_engine(&host, options->engine) ? EFI_OUT_OF_RESOURCES : EFI_UNSUPPORTED;
	case SUITE_FAILED:
		break;
	}
	return EFI_CRC_ERROR;
}

/* What is wrong, and how it is right. */
static EFI_STATUS refuse(const char *why, EFI_STATUS status)
{
	host.write(&host, why);
	host.write(&host, "\n");
	host.write(&host, suite_usage);
	host.write(&host, "\n");
	return status;
}

static EFI_STATUS run(const struct efi_arguments *arguments)
{
	static struct suite_options options;
	static char why[160];

	suite_default_options(&options);
	if (arguments->wrong)
		return refuse(arguments->wrong, EFI_INVALID_PARAMETER);
	if (!suite_parse(arguments->count, arguments->words, &options, why, sizeof(why)))
		return refuse(why, EFI_INVALID_PARAMETER);
	if (options.command != SUITE_MENU)
		return exit_status(suite_run(&host, &options), &options);
	if (!efi_keyboard_is_present())
		return refuse("The menu needs a keyboard or a serial line, and there is neither; give a command.",
		              EFI_UNSUPPORTED);
	if (arguments->from_shell && efi_console_is_file())
		return refuse("The menu cannot go to a file; give a command.", EFI_UNSUPPORTED);
	return exit_status(ui_menu(&host, efi_terminal(), &options), &options);
}

/* An engine that is still running has its objects in pages, or in the firmware's pool. */
static void stop_engines(void)
{
	struct allocator *const *all = suite_engines(&host);

	/* A processor was stopped in the middle of its work, maybe with a lock taken: only the pages are given back. */
	if (host.is_processor_lost)
		return;
	suite_stress_release();
	for (; *all; all++) {
		if ((*all)->is_started)
			(*all)->stop(*all);
	}
}

EFI_STATUS efi_main(EFI_HANDLE image, EFI_SYSTEM_TABLE *system)
{
	struct efi_arguments arguments;
	EFI_STATUS status = EFI_OUT_OF_RESOURCES;
	uint64_t n_left;

	efi_system = system;
	efi_boot = system->BootServices;
	efi_arguments_get(image, &arguments);
	efi_console_begin(&host);
	efi_clock_begin(&host);
	efi_quiet_begin(&host);
	efi_watchdog_begin(&host, arguments.from_shell);
	efi_keyboard_begin(&host, arguments.from_shell);
	efi_power_begin(&host);
	efi_files_begin(&host, image);
	efi_processors_begin(&host);
	efi_interrupts_begin(&host);
	describe_platform();
	if (efi_memory_map_begin(&host)) {
		efi_pages_begin(&host);
		status = run(&arguments);
		stop_engines();
	} else {
		host.write(&host, "The firmware has not even 32 KiB of memory to give; nothing was run.\n");
	}
	efi_console_end();
	n_left = efi_pages_end();
	if (n_left > 0 && !host.is_processor_lost) {
		text_print(&host,
		           "%lu pages were still held at the end and have been given back; this is a fault of the "
		           "program.\n",
		           (unsigned long)n_left);
		status = EFI_ERROR(status) ? status : EFI_CRC_ERROR;
	}
	efi_memory_map_end();
	efi_keyboard_end();
	efi_watchdog_end();
	return status;
}
