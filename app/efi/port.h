/* SPDX-License-Identifier: MIT */
/*
 * The heap's port (include/kmalloc_port.h) in the UEFI program: processors that the firmware starts for us, and event notification
 * functions that interrupt whatever runs.
 *
 * Which processor is this? The per-CPU base register is the stack pointer. Each processor that this program starts works on a stack
 * of ours (processors.c), all of one size and side by side, so the distance from the first of them is the processor's number; who is
 * on none of them is the boot processor, number 0. That relies on nothing but the stack being ours. The bases of GS and FS do not
 * serve: EDK II's exception handlers save both selectors and load neither, so there a base would last; but a selector that is loaded
 * zeroes it, firmware with a legacy BIOS inside does so whenever it calls that BIOS from a driver, and a notification function may
 * then read through the wrong base. A processor's stack is the one thing that firmware puts back after every interrupt.
 *
 * Who may interrupt? On the boot processor, notification functions at TPL_CALLBACK and TPL_NOTIFY. kport_lock raises the level to
 * TPL_NOTIFY, so that none runs while the lock is held; it would spin for ever for a lock that its own processor holds. No higher,
 * because no program's notification function has a higher level, and TPL_HIGH_LEVEL would mask interrupts and lose the firmware's
 * ticks. So the heap must not be called above TPL_NOTIFY, nor from true interrupt handlers. The other processors have no events and
 * must not call boot services: they take the spin lock alone.
 */
#ifndef EFI_PORT_H
#define EFI_PORT_H

#include <stddef.h>
#include <stdint.h>

#define KPORT_CPUS 64
#define KPORT_INTERRUPTS 1

/* The stack of a started processor. EDK II's own are this large, too. */
#define EFI_STACK_SHIFT 15

/* The stacks of the processors that run now; no bytes: none do. Written by the boot processor alone, while none runs. */
struct efi_stacks {
	uintptr_t base;
	size_t size_bytes;
};

extern struct efi_stacks efi_stacks __attribute__((visibility("hidden")));

/* The level before; EFI_LEVEL_NONE: nothing was raised, because the firmware has no levels for this processor, or any more. */
#define EFI_LEVEL_NONE 0
size_t efi_level_raise(void);
void efi_level_restore(size_t level);

static inline unsigned kport_cpu(void)
{
	uintptr_t stack;

	__asm__("mov %%rsp, %0" : "=r"(stack));
	stack -= efi_stacks.base;
	return stack < efi_stacks.size_bytes ? (unsigned)(stack >> EFI_STACK_SHIFT) + 1 : 0;
}

static inline unsigned kport_cpu_begin(void)
{
	return kport_cpu();
}

struct kport_lock {
	unsigned char taken;
};

typedef size_t kport_lock_state;

static inline void kport_lock_init(struct kport_lock *lock)
{
	__atomic_clear(&lock->taken, __ATOMIC_RELAXED);
}

static inline kport_lock_state kport_lock(struct kport_lock *lock)
{
	kport_lock_state level = efi_level_raise();

	while (__atomic_test_and_set(&lock->taken, __ATOMIC_ACQUIRE)) {
		/* Wait on a plain load, so that the line is shared while another processor works. */
		while (__atomic_load_n(&lock->taken, __ATOMIC_RELAXED))
			__builtin_ia32_pause();
	}
	return level;
}

static inline void kport_unlock(struct kport_lock *lock, kport_lock_state level)
{
	__atomic_clear(&lock->taken, __ATOMIC_RELEASE);
	/* What was signalled meanwhile runs in here. */
	efi_level_restore(level);
}

_Noreturn static inline void kport_trap(void)
{
	__builtin_trap();
}

#endif
