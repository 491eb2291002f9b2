/* SPDX-License-Identifier: MIT */
/*
 * The test driver's way into a machine whose firmware has started already. This program waits, and in that state the driver
 * saves the machine. A restored machine differs only in what QEMU's fw_cfg device holds: there the loader finds a program and
 * its arguments, starts it, tells how it ended and whether it gave back its pages, and switches the machine off.
 * It is no part of the product and uses nothing of it.
 */
#include <efi.h>

#define FW_CFG_SELECT 0x510
#define FW_CFG_DATA 0x511
#define FW_CFG_DIRECTORY 0x19

#define PROGRAM "opt/kmalloc/program"
#define ARGUMENTS "opt/kmalloc/arguments"

EFI_STATUS efi_main(EFI_HANDLE image, EFI_SYSTEM_TABLE *system);

static EFI_SYSTEM_TABLE *st;
static EFI_BOOT_SERVICES *bs;

struct file {
	UINT32 size;
	UINT16 selector;
};

static void print(const char *text)
{
	for (; *text; text++) {
		CHAR16 cell[2] = { (CHAR16)*text, 0 };

		st->ConOut->OutputString(st->ConOut, cell);
	}
}

static void print_hex(UINT64 value)
{
	char digits[19] = "0x";
	unsigned n = 2;

	for (int shift = 60; shift >= 0; shift -= 4) {
		if (n > 2 || (value >> shift) != 0 || shift == 0)
			digits[n++] = "0123456789abcdef"[value >> shift & 15];
	}
	digits[n] = 0;
	print(digits);
}

static void fw_cfg_select(UINT16 selector)
{
	__asm__ volatile("outw %0, %1" : : "a"(selector), "Nd"((UINT16)FW_CFG_SELECT));
}

static UINT8 fw_cfg_byte(void)
{
	UINT8 value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"((UINT16)FW_CFG_DATA));
	return value;
}

static UINT32 fw_cfg_number(unsigned n_bytes)
{
	UINT32 value = 0;

	while (n_bytes-- > 0)
		value = value << 8 | fw_cfg_byte();
	return value;
}

static BOOLEAN fw_cfg_find(const char *name, struct file *file)
{
	fw_cfg_select(FW_CFG_DIRECTORY);
	for (UINT32 n = fw_cfg_number(4); n > 0; n--) {
		char found[56];
		unsigned i = 0;

		file->size = fw_cfg_number(4);
		file->selector = (UINT16)fw_cfg_number(2);
		fw_cfg_number(2);
		for (unsigned k = 0; k < sizeof(found); k++)
			found[k] = (char)fw_cfg_byte();
		while (name[i] && name[i] == found[i])
			i++;
		if (name[i] == found[i])
			return TRUE;
	}
	return FALSE;
}

/* The file, in pool memory, each byte in a cell of `width` bytes, with a zero cell behind it. */
static void *fw_cfg_load(const struct file *file, UINTN width)
{
	UINT8 *content;

	if (EFI_ERROR(bs->AllocatePool(EfiLoaderData, (file->size + 1) * width, (void **)&content)))
		return NULL;
	fw_cfg_select(file->selector);
	for (UINTN i = 0; i < (file->size + 1) * width; i++)
		content[i] = i % width == 0 && i / width < file->size ? fw_cfg_byte() : 0;
	return content;
}

/* Pages of the types that a program takes. Boot services data is left out: the firmware keeps some of it for later, whoever asked. */
static UINT64 used_pages(void)
{
	static UINT8 map[65536];
	UINTN size = sizeof(map), key, step;
	UINT32 version;
	UINT64 pages = 0;

	if (EFI_ERROR(bs->GetMemoryMap(&size, (EFI_MEMORY_DESCRIPTOR *)map, &key, &step, &version)))
		return 0;
	for (UINTN at = 0; at < size; at += step) {
		const EFI_MEMORY_DESCRIPTOR *range = (const EFI_MEMORY_DESCRIPTOR *)(map + at);

		if (range->Type == EfiLoaderData || range->Type == EfiLoaderCode)
			pages += range->NumberOfPages;
	}
	return pages;
}

static EFI_STATUS run(EFI_HANDLE self, const struct file *program, const struct file *arguments)
{
	EFI_GUID loaded_image = LOADED_IMAGE_PROTOCOL;
	EFI_LOADED_IMAGE *loaded;
	EFI_HANDLE image = NULL;
	EFI_STATUS status;
	void *content = fw_cfg_load(program, 1);
	CHAR16 *options = arguments->size ? fw_cfg_load(arguments, sizeof(CHAR16)) : NULL;

	status = bs->LoadImage(FALSE, self, NULL, content, program->size, &image);
	if (!EFI_ERROR(status))
		status = bs->HandleProtocol(image, &loaded_image, (void **)&loaded);
	if (EFI_ERROR(status)) {
		print("SNAPSHOT-LOADER: the program cannot be loaded\r\n");
		return status;
	}
	loaded->LoadOptions = options;
	loaded->LoadOptionsSize = options ? (UINT32)((arguments->size + 1) * sizeof(CHAR16)) : 0;
	status = bs->StartImage(image, NULL, NULL);
	if (options)
		bs->FreePool(options);
	bs->FreePool(content);
	return status;
}

EFI_STATUS efi_main(EFI_HANDLE image, EFI_SYSTEM_TABLE *system)
{
	struct file program, arguments = { 0, 0 };
	UINT64 before, after;
	EFI_STATUS status;

	st = system;
	bs = system->BootServices;
	bs->SetWatchdogTimer(0, 0, 0, NULL);
	print("SNAPSHOT-READY\r\n");
	while (!fw_cfg_find(PROGRAM, &program))
		continue;
	/* The machine was saved in the middle of such a look; this one is the first that sees the new directory alone. */
	if (!fw_cfg_find(PROGRAM, &program))
		program.size = 0;
	if (!fw_cfg_find(ARGUMENTS, &arguments))
		arguments.size = 0;

	before = used_pages();
	status = run(image, &program, &arguments);
	after = used_pages();
	print("\r\nSNAPSHOT-ENDED status ");
	print_hex(status);
	print(" pages before ");
	print_hex(before);
	print(" after ");
	print_hex(after);
	print(" end\r\n");
	st->RuntimeServices->ResetSystem(EfiResetShutdown, EFI_SUCCESS, 0, NULL);
	return EFI_SUCCESS;
}
