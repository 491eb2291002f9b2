#!/usr/bin/python3 -B
# SPDX-License-Identifier: MIT
"""Turn the linked ELF file of a UEFI program into a strict PE file.

usage: make-pe.py INPUT.elf OUTPUT.efi

The linker script scripts/efi-x86_64.lds leaves three sections that matter: .text, .rodata, .data (with .bss behind it). They
become PE sections as they are; the ELF relocations become PE base relocations, so that the firmware relocates the image and
constants that hold addresses can be read-only; .sbat is added in its exact size. There is no time, path or symbol in the output,
so equal input gives equal output. scripts/check-pe.py checks what this promises.
"""

import pathlib
import re
import struct
import sys

PAGE = 4096

SCN_CODE, SCN_DATA = 0x20, 0x40
SCN_DISCARDABLE, SCN_EXECUTE, SCN_READ, SCN_WRITE = 0x02000000, 0x20000000, 0x40000000, 0x80000000

SHT_RELA, SHT_NOBITS = 4, 8
R_X86_64_RELATIVE = 8
DT_NULL, DT_RELASZ = 0, 8

SBAT = """\
sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md
kmalloc,1,The kmalloc authors,kmalloc,{version},see README.md
"""


def fail(text):
    sys.exit(f"make-pe: {text}")


def round_up(value, unit=PAGE):
    return (value + unit - 1) // unit * unit


class Elf:
    """As much of an ELF64 file as is needed here: sections by name, and the entry."""

    def __init__(self, data):
        if data[:6] != b"\x7fELF\x02\x01":
            fail("the input is no little-endian 64-bit ELF file")
        self.data = data
        self.entry, _, table = struct.unpack_from("<QQQ", data, 24)
        size, n, names = struct.unpack_from("<HHH", data, 58)
        headers = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * size) for i in range(n)]
        strings = headers[names][4]
        self.sections = {}
        for header in headers:
            end = data.index(0, strings + header[0])
            self.sections[data[strings + header[0] : end].decode()] = header

    def address(self, name):
        return self.sections[name][3] if name in self.sections else 0

    def size(self, name):
        return self.sections[name][5] if name in self.sections else 0

    def content(self, name):
        if name not in self.sections or self.sections[name][1] == SHT_NOBITS:
            return b""
        offset, size = self.sections[name][4:6]
        return self.data[offset : offset + size]

    def relocations(self):
        """(address, addend) of each; every one must be "add the load address"."""
        found = []
        for name, header in self.sections.items():
            if header[1] != SHT_RELA:
                continue
            for offset, info, addend in struct.iter_unpack("<QQq", self.content(name)):
                if info & 0xFFFFFFFF != R_X86_64_RELATIVE:
                    fail(f"relocation type {info & 0xffffffff} at {offset:#x} has no PE counterpart")
                found.append((offset, addend))
        return sorted(found)


class Section:
    def __init__(self, name, address, content, virtual_size, flags):
        self.name, self.address, self.content = name, address, bytearray(content)
        self.virtual_size, self.flags = virtual_size, flags

    def holds(self, address, size):
        return self.address <= address and address + size <= self.address + len(self.content)


def base_relocations(addresses):
    """The content of .reloc: one block for each page, entries of type DIR64, padded to four bytes."""
    pages = {}
    for address in addresses:
        pages.setdefault(address & ~(PAGE - 1), []).append(0xA000 | address & (PAGE - 1))
    if not pages:
        pages = {0: [0, 0]}  # an empty table would say "cannot be relocated"
    content = b""
    for page, entries in sorted(pages.items()):
        entries += [0] * (len(entries) % 2)
        content += struct.pack("<II", page, 8 + 2 * len(entries)) + struct.pack(f"<{len(entries)}H", *entries)
    return content


def apply_relocations(sections, relocations):
    """Write each addend in place: the image is linked to address 0."""
    for address, addend in relocations:
        section = next((s for s in sections if s.holds(address, 8)), None)
        if section is None or section.flags & SCN_EXECUTE:
            fail(f"the relocation at {address:#x} lies in code or outside the image")
        struct.pack_into("<q", section.content, address - section.address, addend)


def silence_startup_relocation(elf, sections):
    """gnu-efi's start-up code would apply the ELF relocations once more: tell it that there are none."""
    symbol = dynamic_address(elf)
    section = next(s for s in sections if s.holds(symbol, 16))
    offset = symbol - section.address
    while True:
        tag = struct.unpack_from("<q", section.content, offset)[0]
        if tag == DT_NULL:
            return
        if tag == DT_RELASZ:
            struct.pack_into("<Q", section.content, offset + 8, 0)
        offset += 16


def dynamic_address(elf):
    """Where _DYNAMIC is; the linker script put it inside .rodata."""
    symbols, strings = elf.content(".symtab"), elf.content(".strtab")
    for name, _, _, _, value, _ in struct.iter_unpack("<IBBHQQ", symbols):
        if strings[name : strings.index(0, name)] == b"_DYNAMIC":
            return value
    fail("there is no symbol _DYNAMIC")


def image_sections(elf):
    data_end = max(elf.address(n) + elf.size(n) for n in (".data", ".bss"))
    data_start = elf.address(".data") or elf.address(".bss")
    sections = [
        Section(".text", elf.address(".text"), elf.content(".text"), elf.size(".text"), SCN_CODE | SCN_READ | SCN_EXECUTE),
        Section(".rodata", elf.address(".rodata"), elf.content(".rodata"), elf.size(".rodata"), SCN_DATA | SCN_READ),
        Section(".data", data_start, elf.content(".data"), data_end - data_start, SCN_DATA | SCN_READ | SCN_WRITE),
    ]
    sections = [s for s in sections if s.virtual_size]
    relocations = elf.relocations()
    apply_relocations(sections, relocations)
    silence_startup_relocation(elf, sections)

    version = re.search(r'KMALLOC_VERSION "([^"]+)"', pathlib.Path("include/kmalloc.h").read_text()).group(1)
    extra = [
        (".reloc", base_relocations([address for address, _ in relocations]), SCN_DATA | SCN_READ | SCN_DISCARDABLE),
        (".sbat", SBAT.format(version=version).encode(), SCN_DATA | SCN_READ),
    ]
    for name, content, flags in extra:
        end = sections[-1].address + sections[-1].virtual_size
        sections.append(Section(name, round_up(end), content, len(content), flags))
    return sections


def checksum(image):
    """The PE checksum: 16-bit one's complement sum, plus the length. The field itself is still zero."""
    total = sum(struct.unpack(f"<{len(image) // 2}H", image))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total + len(image)


def pe_file(elf):
    sections = image_sections(elf)
    by_name = {s.name: s for s in sections}
    reloc = by_name[".reloc"]

    def bytes_of(flag):
        return sum(round_up(len(s.content)) for s in sections if s.flags & flag)

    coff = struct.pack("<HHIIIHH", 0x8664, len(sections), 0, 0, 0, 240, 0x022E)
    optional = struct.pack("<HBBIIIII", 0x20B, 0, 0, bytes_of(SCN_CODE), bytes_of(SCN_DATA), 0, elf.entry, by_name[".text"].address)
    optional += struct.pack("<QIIHHHHHHIIIIHH", 0, PAGE, PAGE, 0, 0, 0, 0, 0, 0, 0,
                            round_up(sections[-1].address + sections[-1].virtual_size), PAGE, 0,
                            10,      # subsystem: EFI application
                            0x0160)  # NX_COMPAT, DYNAMIC_BASE, HIGH_ENTROPY_VA
    optional += struct.pack("<QQQQII", 0, 0, 0, 0, 0, 16)
    directories = [(0, 0)] * 16
    directories[5] = (reloc.address, reloc.virtual_size)
    optional += b"".join(struct.pack("<II", *d) for d in directories)

    table, body, offset = b"", b"", PAGE
    for s in sections:
        raw = round_up(len(s.content))
        table += struct.pack("<8sIIIIIIHHI", s.name.encode(), s.virtual_size, s.address, raw, offset if raw else 0, 0, 0, 0, 0, s.flags)
        body += s.content.ljust(raw, b"\0")
        offset += raw
    dos = b"MZ".ljust(60, b"\0") + struct.pack("<I", 64)
    image = bytearray((dos + b"PE\0\0" + coff + optional + table).ljust(PAGE, b"\0") + body)
    struct.pack_into("<I", image, 64 + 24 + 64, checksum(image))
    return bytes(image)


def main():
    if len(sys.argv) != 3:
        fail("usage: make-pe.py INPUT.elf OUTPUT.efi")
    pathlib.Path(sys.argv[2]).write_bytes(pe_file(Elf(pathlib.Path(sys.argv[1]).read_bytes())))


main()
