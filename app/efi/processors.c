/* SPDX-License-Identifier: MIT */
/*
 * The processors that the firmware has enabled. They are counted, not started.
 */
#include "efi_host.h"

/* The PI specification's MP services; gnu-efi has no header for them. Only the first function is needed. */
struct mp_services {
	EFI_STATUS(EFIAPI *get_number_of_processors)(struct mp_services *self, UINTN *n_processors, UINTN *n_enabled);
};

unsigned efi_count_processors(void)
{
	static const EFI_GUID guid = { 0x3fdda605, 0xa76e, 0x4f46, { 0xad, 0x29, 0x12, 0xf4, 0x53, 0x1b, 0x3d, 0x08 } };
	struct mp_services *mp = efi_locate(&guid);
	UINTN n_processors = 0, n_enabled = 0;

	if (!mp || EFI_ERROR(mp->get_number_of_processors(mp, &n_processors, &n_enabled)) || n_enabled == 0)
		return 1;
	return (unsigned)n_enabled;
}
