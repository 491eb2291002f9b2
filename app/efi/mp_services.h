/* SPDX-License-Identifier: MIT */
/*
 * EFI_MP_SERVICES_PROTOCOL as the PI specification has it (volume 2, "DXE Boot Services Protocols", section "MP Services Protocol");
 * gnu-efi 3.0.15 has no header for it. Functions that nobody here calls have no prototype.
 */
#ifndef EFI_MP_SERVICES_H
#define EFI_MP_SERVICES_H

#include <efi.h>

/* StatusFlag */
#define PROCESSOR_AS_BSP_BIT 1u
#define PROCESSOR_ENABLED_BIT 2u
#define PROCESSOR_HEALTH_STATUS_BIT 4u

struct processor_information {
	UINT64 processor_id;
	UINT32 status_flag;
	UINT32 package, core, thread;
	UINT32 extended[6]; /* since PI 1.7, and only when asked for */
};

typedef VOID(EFIAPI *ap_procedure)(VOID *argument);

struct mp_services {
	EFI_STATUS(EFIAPI *get_number_of_processors)(struct mp_services *self, UINTN *n_processors, UINTN *n_enabled);
	EFI_STATUS(EFIAPI *get_processor_info)
	(struct mp_services *self, UINTN number, struct processor_information *information);
	/* With no event it returns when all processors have; *failed is pool memory, and may be left out. */
	EFI_STATUS(EFIAPI *startup_all_aps)
	(struct mp_services *self, ap_procedure procedure, BOOLEAN one_by_one, EFI_EVENT event, UINTN timeout_us,
	 VOID *argument, UINTN **failed);
	VOID *startup_this_ap, *switch_bsp, *enable_disable_ap;
	/* The one service that every processor may call. */
	EFI_STATUS(EFIAPI *who_am_i)(struct mp_services *self, UINTN *number);
};

#endif
