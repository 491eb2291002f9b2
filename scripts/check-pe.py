#!/usr/bin/python3 -B
# SPDX-License-Identifier: MIT
"""Check that a UEFI program is a strict PE file, one line a promise.

usage: check-pe.py FILE.efi                 check it
       check-pe.py --self-check FILE.efi    break a copy in every way that is checked, and see each noticed

Recent firmware refuses images that break these rules, and Secure Boot signers do. Ends with "N passed, N failed"; the exit status
is 1 when anything failed.
"""

import pathlib
import struct
import sys

PAGE = 4096
EXECUTE, READ, WRITE = 0x20000000, 0x40000000, 0x80000000
ROOT = pathlib.Path(__file__).resolve().parent.parent

# Where the fields are, counted from the PE signature.
MACHINE, N_SECTIONS, TIME, SYMBOLS, N_SYMBOLS, OPTIONAL_SIZE, CHARACTERISTICS = 4, 6, 8, 12, 16, 20, 22
OPTIONAL = 24
ENTRY, SECTION_ALIGNMENT, FILE_ALIGNMENT = OPTIONAL + 16, OPTIONAL + 32, OPTIONAL + 36
IMAGE_SIZE, HEADERS_SIZE, CHECKSUM = OPTIONAL + 56, OPTIONAL + 60, OPTIONAL + 64
SUBSYSTEM, DLL_CHARACTERISTICS = OPTIONAL + 68, OPTIONAL + 70
DIRECTORIES = OPTIONAL + 112
RELOC_DIRECTORY, DEBUG_DIRECTORY = DIRECTORIES + 5 * 8, DIRECTORIES + 6 * 8
# ... and from the start of a section's header.
VIRTUAL_SIZE, ADDRESS, RAW_SIZE, RAW_OFFSET, FLAGS = 8, 12, 16, 20, 36


class Section:
    def __init__(self, data, header):
        self.header = header
        self.name = data[header : header + 8].rstrip(b"\0").decode("ascii", "replace")
        self.virtual_size, self.address, self.raw_size, self.raw_offset = struct.unpack_from("<IIII", data, header + 8)
        self.old_tables = struct.unpack_from("<IIHH", data, header + 24)
        self.flags = struct.unpack_from("<I", data, header + FLAGS)[0]
        self.end = self.address + max(self.virtual_size, self.raw_size)


class Image:
    def __init__(self, data):
        self.data = data
        self.pe = struct.unpack_from("<I", data, 60)[0]
        table = self.pe + OPTIONAL + self.u16(OPTIONAL_SIZE)
        self.sections = [Section(data, table + 40 * i) for i in range(self.u16(N_SECTIONS))]

    def u16(self, field):
        return struct.unpack_from("<H", self.data, self.pe + field)[0]

    def u32(self, field):
        return struct.unpack_from("<I", self.data, self.pe + field)[0]

    def section(self, name):
        return next((s for s in self.sections if s.name == name), None)

    def section_at(self, address, size=1):
        return next((s for s in self.sections if s.address <= address and address + size <= s.end), None)

    def content(self, section):
        return self.data[section.raw_offset : section.raw_offset + section.virtual_size]

    def base_relocations(self):
        """(type, address) of each entry; None when the table is damaged."""
        address, size = self.u32(RELOC_DIRECTORY), self.u32(RELOC_DIRECTORY + 4)
        section = self.section_at(address, size) if size else None
        if section is None:
            return None
        table = self.content(section)[address - section.address :][:size]
        found, offset = [], 0
        while offset < size:
            page, block = struct.unpack_from("<II", table, offset)
            if page % PAGE or block < 8 or block % 4 or offset + block > size:
                return None
            for entry in struct.unpack_from(f"<{(block - 8) // 2}H", table, offset + 8):
                found.append((entry >> 12, page + (entry & 0xFFF)))
            offset += block
        return found


# Each check returns "" when the promise holds, else what is wrong.


def check_kind(image):
    kind = (image.data[:2], image.u32(0), image.u16(MACHINE), image.u16(OPTIONAL), image.u16(SUBSYSTEM))
    return "" if kind == (b"MZ", 0x4550, 0x8664, 0x20B, 10) else f"the header says {kind}"


def check_alignment_fields(image):
    fields = image.u32(SECTION_ALIGNMENT), image.u32(FILE_ALIGNMENT)
    return "" if fields == (PAGE, PAGE) else "section and file alignment are %d and %d" % fields


def check_layout(image):
    memory, file = image.u32(HEADERS_SIZE), image.u32(HEADERS_SIZE)
    for s in image.sections:
        if s.address % PAGE or s.raw_size % PAGE or s.raw_offset % PAGE:
            return f"{s.name} is not made of whole pages"
        if s.address < memory or (s.raw_size and s.raw_offset != file):
            return f"{s.name} overlaps what is before it, or leaves a gap in the file"
        memory, file = s.end, file + s.raw_size
    if image.u32(IMAGE_SIZE) != (memory + PAGE - 1) // PAGE * PAGE:
        return f"the image size {image.u32(IMAGE_SIZE):#x} is not where the last section ends, {memory:#x}"
    if len(image.data) != file:
        return f"the file goes on for {len(image.data) - file} bytes behind the last section"
    return ""


def check_write_xor_execute(image):
    bad = [s.name for s in image.sections if s.flags & WRITE and s.flags & EXECUTE]
    code = image.section(".text")
    if code is None or not code.flags & EXECUTE:
        bad.append("no executable .text")
    return ", ".join(bad)


def check_constants(image):
    constants = image.section(".rodata")
    if constants is None or constants.virtual_size == 0:
        return "there is no .rodata"
    return f".rodata has flags {constants.flags:#x}" if constants.flags & (WRITE | EXECUTE | READ) != READ else ""


def check_nx(image):
    return "" if image.u16(DLL_CHARACTERISTICS) & 0x0100 else "NX_COMPAT is not set"


def check_dynamic_base(image):
    if not image.u16(DLL_CHARACTERISTICS) & 0x0040:
        return "DYNAMIC_BASE is not set"
    if image.u16(CHARACTERISTICS) & 1:
        return "the header says that relocations were stripped"
    return "" if image.base_relocations() else "there is no table of base relocations"


def check_text_relocations(image):
    for kind, address in image.base_relocations() or []:
        section = image.section_at(address, 8)
        if kind not in (0, 10):
            return f"a relocation of type {kind} at {address:#x}"
        if kind and (section is None or section.flags & EXECUTE):
            return f"a relocation in code, or outside the image, at {address:#x}"
    return ""


def check_relocated_values(image):
    for kind, address in image.base_relocations() or []:
        if kind == 10:
            section = image.section_at(address, 8)
            value = struct.unpack_from("<Q", image.data, section.raw_offset + address - section.address)[0] if section else -1
            if not 0 < value <= image.u32(IMAGE_SIZE):
                return f"the address stored at {address:#x}, {value:#x}, is not in the image"
    return ""


def check_sbat(image):
    section = image.section(".sbat")
    if section is None or section.flags & (WRITE | EXECUTE | READ) != READ:
        return "there is no read-only .sbat"
    text = image.content(section)
    padding = image.data[section.raw_offset + section.virtual_size : section.raw_offset + section.raw_size]
    if not text.endswith(b"\n") or b"\0" in text or padding.strip(b"\0"):
        return "its virtual size is not that of its text"
    lines = text.decode("ascii", "replace").splitlines()
    if not lines[0].startswith("sbat,1,") or not any(line.startswith("kmalloc,1,") for line in lines[1:]):
        return f"its lines are {lines}"
    return "" if all(len(line.split(",")) == 6 for line in lines) else "a line has not six fields"


def check_symbols(image):
    if image.u32(SYMBOLS) or image.u32(N_SYMBOLS):
        return f"{image.u32(N_SYMBOLS)} COFF symbols"
    bad = [s.name for s in image.sections if any(s.old_tables)]
    if image.u32(DEBUG_DIRECTORY) or image.u32(DEBUG_DIRECTORY + 4):
        bad.append("a debug directory")
    return ", ".join(bad)


def check_time(image):
    return f"the time stamp is {image.u32(TIME)}" if image.u32(TIME) else ""


def check_paths(image):
    for path in (str(ROOT), "/usr/include", "/usr/lib"):
        if path.encode() in image.data:
            return f"{path} is in the file"
    return ""


def check_entry(image):
    section = image.section_at(image.u32(ENTRY))
    return "" if section and section.flags & EXECUTE else f"the entry {image.u32(ENTRY):#x} is not in code"


def check_checksum(image):
    data = bytearray(image.data)
    struct.pack_into("<I", data, image.pe + CHECKSUM, 0)
    total = sum(struct.unpack(f"<{len(data) // 2}H", data[: len(data) // 2 * 2]))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    right = total + len(data)
    return "" if image.u32(CHECKSUM) == right else f"the checksum is {image.u32(CHECKSUM):#x}, not {right:#x}"


# For the self-check: ways to break a copy that the check of the same line must notice.


def put16(field, value):
    return lambda image, data: struct.pack_into("<H", data, image.pe + field, value)


def put32(field, value):
    return lambda image, data: struct.pack_into("<I", data, image.pe + field, value)


def put_section(name, field, change):
    def breakage(image, data):
        at = image.section(name).header + field
        struct.pack_into("<I", data, at, change(struct.unpack_from("<I", data, at)[0]))

    return breakage


def clear_bit(field, bit):
    return lambda image, data: struct.pack_into("<H", data, image.pe + field, image.u16(field) & ~bit)


def put_in(name, offset, content):
    def breakage(image, data):
        at = image.section(name).raw_offset + offset
        data[at : at + len(content)] = content

    return breakage


def spoil_relocated_value(image, data):
    address = next(a for kind, a in image.base_relocations() if kind == 10)
    section = image.section_at(address, 8)
    struct.pack_into("<Q", data, section.raw_offset + address - section.address, 1 << 40)


CHECKS = [
    ("a PE32+ file for x86_64, an EFI application", check_kind, [put16(MACHINE, 0x14C), put16(SUBSYSTEM, 3)]),
    ("4 KiB section and file alignment", check_alignment_fields, [put32(SECTION_ALIGNMENT, 32), put32(FILE_ALIGNMENT, 512)]),
    ("sections are whole pages without overlap, and nothing is behind them", check_layout,
     [put_section(".data", RAW_OFFSET, lambda v: v + 512), put_section(".rodata", ADDRESS, lambda v: v - PAGE),
      put32(IMAGE_SIZE, PAGE), lambda image, data: data.extend(b"more")]),
    ("no section is writable and executable", check_write_xor_execute,
     [put_section(".text", FLAGS, lambda v: v | WRITE), put_section(".data", FLAGS, lambda v: v | EXECUTE)]),
    ("constants are read-only", check_constants,
     [put_section(".rodata", FLAGS, lambda v: v | WRITE), lambda image, data: put_name(image, data, ".rodata", b".other\0\0")]),
    ("NX_COMPAT is set", check_nx, [clear_bit(DLL_CHARACTERISTICS, 0x0100)]),
    ("DYNAMIC_BASE is set and the image can be relocated", check_dynamic_base,
     [clear_bit(DLL_CHARACTERISTICS, 0x0040), put16(CHARACTERISTICS, 1), put32(RELOC_DIRECTORY + 4, 0)]),
    ("no relocation lies in code", check_text_relocations,
     [put_in(".reloc", 0, struct.pack("<I", PAGE)), put_in(".reloc", 8, struct.pack("<H", 0x3000))]),
    ("every relocated address lies in the image", check_relocated_values, [spoil_relocated_value]),
    (".sbat is read-only and its size exact", check_sbat,
     [put_section(".sbat", VIRTUAL_SIZE, lambda v: PAGE), put_section(".sbat", VIRTUAL_SIZE, lambda v: v - 1),
      put_section(".sbat", FLAGS, lambda v: v | WRITE), put_in(".sbat", 0, b"tabs")]),
    ("no COFF symbols, no debug data", check_symbols, [put32(N_SYMBOLS, 1), put32(DEBUG_DIRECTORY, 1)]),
    ("no time stamp", check_time, [put32(TIME, 1)]),
    ("no path of the machine that built it", check_paths, [put_in(".data", 0, str(ROOT).encode())]),
    ("the entry is in code", check_entry, [put32(ENTRY, 0)]),
    ("the checksum is right", check_checksum, [put32(CHECKSUM, 0)]),
]


def put_name(image, data, name, new):
    header = image.section(name).header
    data[header : header + 8] = new


def attempt(check, data):
    try:
        return check(Image(bytes(data)))
    except (struct.error, IndexError, StopIteration) as error:
        return f"the file is too damaged to look at ({error})"


def check_file(data):
    """(what is promised, what is wrong or "") for every check."""
    return [(name, attempt(check, data)) for name, check, _ in CHECKS]


def self_check(data):
    results = []
    for name, check, breakages in CHECKS:
        for number, breakage in enumerate(breakages, 1):
            broken = bytearray(data)
            breakage(Image(data), broken)
            if broken == data:
                wrong = "the breakage changed nothing"
            else:
                wrong = "" if attempt(check, broken) else "it went unnoticed"
            results.append((f"noticed when broken ({number}): {name}", wrong))
    return results


def main():
    arguments = sys.argv[1:]
    run = check_file
    if arguments[:1] == ["--self-check"]:
        run, arguments = self_check, arguments[1:]
    if len(arguments) != 1:
        sys.exit(__doc__)
    results = run(pathlib.Path(arguments[0]).read_bytes())
    for name, wrong in results:
        print(f"FAIL  {name}: {wrong}" if wrong else f"ok    {name}")
    n_failed = sum(1 for _, wrong in results if wrong)
    print(f"{len(results) - n_failed} passed, {n_failed} failed")
    sys.exit(1 if n_failed else 0)


if __name__ == "__main__":
    main()
