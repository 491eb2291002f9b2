/* SPDX-License-Identifier: MIT */
/*
 * Where the ACPI power management timer is: RSDP -> XSDT or RSDT -> FADT. Tables are only read, and their lengths
 * are not trusted further than the fields that are needed.
 */
#include "efi_host.h"

#define MAX_TABLES 1024

/* Offsets in the tables, from the ACPI specification. */
#define RSDP_REVISION 15
#define RSDP_RSDT 16
#define RSDP_XSDT 24
#define TABLE_LENGTH 4
#define TABLE_HEADER 36
#define FADT_PM_TIMER 76
#define FADT_PM_TIMER_LENGTH 91
#define FADT_X_PM_TIMER 208
#define FADT_X_PM_TIMER_END 220
#define ADDRESS_SPACE_IO 1

static uint64_t field(const uint8_t *table, size_t offset, size_t size)
{
	uint64_t value = 0;

	for (size_t i = size; i-- > 0;) {
		value = value << 8 | table[offset + i];
	}
	return value;
}

static const uint8_t *find_rsdp(void)
{
	static const EFI_GUID acpi_20 = ACPI_20_TABLE_GUID, acpi_10 = ACPI_TABLE_GUID;
	const uint8_t *old = NULL;

	for (UINTN i = 0; i < efi_system->NumberOfTableEntries; i++) {
		const EFI_CONFIGURATION_TABLE *entry = &efi_system->ConfigurationTable[i];
		if (!__builtin_memcmp(&entry->VendorGuid, &acpi_20, sizeof(acpi_20)))
			return entry->VendorTable;
		if (!__builtin_memcmp(&entry->VendorGuid, &acpi_10, sizeof(acpi_10)))
			old = entry->VendorTable;
	}
	return old;
}

static const uint8_t *find_fadt(void)
{
	const uint8_t *rsdp = find_rsdp();
	const uint8_t *root = NULL;
	size_t entry_size = 8, n;

	if (!rsdp)
		return NULL;
	if (rsdp[RSDP_REVISION] >= 2)
		root = (const uint8_t *)(uintptr_t)field(rsdp, RSDP_XSDT, 8);
	if (!root) {
		root = (const uint8_t *)(uintptr_t)field(rsdp, RSDP_RSDT, 4);
		entry_size = 4;
	}
	if (!root || field(root, TABLE_LENGTH, 4) < TABLE_HEADER)
		return NULL;
	n = (size_t)(field(root, TABLE_LENGTH, 4) - TABLE_HEADER) / entry_size;
	for (size_t i = 0; i < n && i < MAX_TABLES; i++) {
		const uint8_t *table =
			(const uint8_t *)(uintptr_t)field(root, TABLE_HEADER + i * entry_size, entry_size);
		if (table && !__builtin_memcmp(table, "FACP", 4))
			return table;
	}
	return NULL;
}

uint16_t efi_acpi_timer_port(void)
{
	const uint8_t *fadt = find_fadt();
	uint64_t length, port = 0;

	if (!fadt)
		return 0;
	length = field(fadt, TABLE_LENGTH, 4);
	if (length >= FADT_X_PM_TIMER_END && fadt[FADT_X_PM_TIMER] == ADDRESS_SPACE_IO)
		port = field(fadt, FADT_X_PM_TIMER + 4, 8);
	if (port == 0 && length > FADT_PM_TIMER_LENGTH && fadt[FADT_PM_TIMER_LENGTH] == 4)
		port = field(fadt, FADT_PM_TIMER, 4);
	return port <= UINT16_MAX ? (uint16_t)port : 0;
}
