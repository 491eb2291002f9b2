/* SPDX-License-Identifier: MIT */
/*
 * The part of the heap's port that needs the firmware: task priority levels. Must not be called above TPL_NOTIFY.
 */
#include "port.h"

#include "efi_host.h"

struct efi_stacks efi_stacks;

_Static_assert(TPL_APPLICATION != EFI_LEVEL_NONE, "no level of the firmware means that there is none");

size_t efi_level_raise(void)
{
	/* Boot services are the boot processor's, and end with ExitBootServices: who calls that clears efi_boot first. */
	if (efi_boot == NULL || kport_cpu() != 0)
		return EFI_LEVEL_NONE;
	return efi_boot->RaiseTPL(TPL_NOTIFY);
}

void efi_level_restore(size_t level)
{
	if (level != EFI_LEVEL_NONE && efi_boot != NULL)
		efi_boot->RestoreTPL(level);
}
