#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Where the module can panic, which is BUG(): every call of core::panicking and the like that the compiler left in
its code, by the place in our source that it would name. Each must be one of ALLOWED.

  check-panics.py OBJECT      OBJECT is build/module/kvm-intel.o

An overflow, an index or a slice that the compiler cannot prove right is such a place, so what is listed is all
that has to be thought about. Panics inside the kernel crate and core, with arguments of theirs, are not ours to list:
KVec::push() and such check their own lengths."""

import bisect
import collections
import re
import struct
import sys

INDEX_OF_SLOT = "an index of the two vmcs02s, which Pool hands out: core tests it"
COUNT = "counts, each checked by get_mut() on an array before"
CHUNK = "a piece of what chunks(8) or a size of at most 8 gave"

# (file, kind of panic): why it cannot happen.
ALLOWED = {
    ("rust/core/bits.rs", "panic"): "asserts on the constants of bitfield!, at build time wherever they are inlined",
    ("rust/core/stats.rs", "panic_fmt"): "the length of a name, in constants",
    ("rust/core/x86/irqchip/lapic_timer.rs", "panic_const_add_overflow"): "div_ceil(): u64::MAX / 1 leaves no rest",
    ("rust/core/x86/vmx/preemption_timer.rs", "panic_const_shr_overflow"): "the rate has 5 bits",
    ("rust/sys/context.rs", "panic_bounds_check"): "PerCpu has a cell for each possible CPU",
    ("rust/host.rs", "panic"): "host() after init() only, before which nothing of the module can be called",
    ("rust/arch/x86/code.rs", "panic_const_add_overflow"): COUNT,
    ("rust/arch/x86/emulate/memory.rs", "slice_end_index_len_fail"): CHUNK,
    ("rust/arch/x86/emulate/ops.rs", "slice_end_index_len_fail"): CHUNK,
    ("rust/arch/x86/emulate/replay.rs", "panic_const_add_overflow"): COUNT,
    ("rust/arch/x86/mmu/mod.rs", "panic_const_sub_overflow"): "`behind` is greater than `from`",
    ("rust/arch/x86/mmu/shadow.rs", "panic_const_add_overflow"): "numbers of tables and of shadows in memory",
    ("rust/arch/x86/nested/enter.rs", "panic_bounds_check"): INDEX_OF_SLOT,
    ("rust/arch/x86/nested/reflect.rs", "panic_bounds_check"): INDEX_OF_SLOT,
    ("rust/arch/x86/nested/invalidate.rs", "panic_bounds_check"): INDEX_OF_SLOT,
    ("rust/arch/x86/nested/leave.rs", "panic_bounds_check"): INDEX_OF_SLOT,
    ("rust/arch/x86/nested/pages.rs", "panic_bounds_check"): INDEX_OF_SLOT,
    ("rust/arch/x86/nested/resume.rs", "panic_bounds_check"): INDEX_OF_SLOT,
    ("rust/arch/x86/nested/operand.rs", "panic_const_add_overflow"): "pieces of an operand of at most 16 bytes",
    ("rust/arch/x86/nested/operand.rs", "slice_end_index_len_fail"): "pieces of an operand of at most 16 bytes",
    ("rust/arch/x86/nested/save.rs", "slice_end_index_len_fail"): "a blob is at least its header",
    ("rust/vm/ring.rs", "panic_const_add_overflow"): "numbers of entries in memory",
    ("rust/vm/vcpus.rs", "panic_const_add_overflow"): "numbers of entries in memory",
    ("rust/vm/iobus.rs", "panic_const_add_overflow"): "the length of a table in memory",
    ("rust/vm/posted.rs", "panic_const_add_overflow"): "small numbers",
}

PANIC = re.compile(r"9panicking|_fail$|unwrap_failed|expect_failed|_mismatch")
SHT_SYMTAB, SHT_RELA = 2, 4
STT_FUNC = 2
# Relative to the end of the field, which is 4 bytes behind its start.
PC_RELATIVE = (2, 4)
# How far before a call the address of its Location is loaded, in bytes.
WINDOW = 60


class Object:
    """A relocatable ELF64 file: sections, symbols, relocations."""

    def __init__(self, path):
        with open(path, "rb") as f:
            self.data = f.read()
        if self.data[:5] != b"\x7fELF\x02":
            raise ValueError(f"{path} is no ELF64 file")
        start, = struct.unpack_from("<Q", self.data, 0x28)
        size, count, names = struct.unpack_from("<HHH", self.data, 0x3A)
        rows = [struct.unpack_from("<IIQQQQIIQQ", self.data, start + size * i) for i in range(count)]
        self.kinds = [row[1] for row in rows]
        self.offsets = [row[4] for row in rows]
        self.sizes = [row[5] for row in rows]
        self.names = [self.text(self.offsets[names] + row[0]) for row in rows]
        table = self.kinds.index(SHT_SYMTAB)
        strings = self.offsets[rows[table][6]]
        self.symbols = []
        for at in range(self.offsets[table], self.offsets[table] + self.sizes[table], 24):
            name, info, _, section, value, _ = struct.unpack_from("<IBBHQQ", self.data, at)
            self.symbols.append((self.text(strings + name), info & 15, section, value))
        self.relocations = collections.defaultdict(dict)
        for index, row in enumerate(rows):
            if self.kinds[index] == SHT_RELA:
                for at in range(row[4], row[4] + row[5], 24):
                    offset, info, addend = struct.unpack_from("<QQq", self.data, at)
                    kind = info & 0xFFFFFFFF
                    self.relocations[row[7]][offset] = (info >> 32, addend + (4 if kind in PC_RELATIVE else 0))

    def text(self, at):
        """The string at a place of the file."""
        return self.data[at:self.data.index(b"\0", at)].decode(errors="replace")

    def target(self, section, offset):
        """(section, offset) that the relocation at a place points to."""
        symbol, addend = self.relocations[section][offset]
        return self.symbols[symbol][2], self.symbols[symbol][3] + addend

    def location(self, section, offset):
        """(file, line) of the core::panic::Location at a place, if one is there."""
        if section >= len(self.names) or offset not in self.relocations[section]:
            return None
        name_section, name_offset = self.target(section, offset)
        length, line, _ = struct.unpack_from("<QII", self.data, self.offsets[section] + offset + 8)
        if name_section >= len(self.names) or not 0 < length < 300:
            return None
        at = self.offsets[name_section] + name_offset
        return self.data[at:at + length].decode(errors="replace"), line

    def panics(self):
        """Yields (location or None, symbol called, function) for each call of a panic."""
        for section, relocations in list(self.relocations.items()):
            if ".text" not in self.names[section]:
                continue
            functions = sorted((s[3], s[0]) for s in self.symbols if s[1] == STT_FUNC and s[2] == section)
            places = sorted(relocations)
            for number, offset in enumerate(places):
                symbol = self.symbols[relocations[offset][0]][0]
                if not PANIC.search(symbol):
                    continue
                found = None
                for before in reversed(places[max(0, number - 4):number]):
                    if offset - before < WINDOW and not found:
                        found = self.location(*self.target(section, before))
                at = bisect.bisect([f[0] for f in functions], offset) - 1
                yield found, symbol, functions[at][1] if at >= 0 else "?"


def ours(path):
    """A path below rust/ of ours, or None for what is the kernel's or the compiler's."""
    found = re.match(r"(?:.*/)?(?:\./)?(rust/(?:arch|core|host|ioctl|run|sys|vm|burrow)\b.*)", path)
    return found.group(1) if found and "linux-source" not in path and "rustlib" not in path else None


def main():
    """Entry point."""
    seen, bad = collections.Counter(), []
    for place, symbol, function in Object(sys.argv[1]).panics():
        kind = re.search(r"\d([a-z_]+)$", symbol)
        kind = kind.group(1) if kind else symbol
        path = ours(place[0]) if place else None
        seen["ours" if path else "others"] += 1
        if path and (path, kind) not in ALLOWED:
            bad.append(f"{path}:{place[1]}: {kind}, in {function}")
    for line in sorted(set(bad)):
        print(line)
    if bad:
        print("each of these can be BUG(): write it without, or say in ALLOWED of scripts/check-panics.py why it cannot be")
    if not seen["others"]:
        print("no panic at all was found: the code is not what this script knows how to read")
    return 1 if bad or not seen["others"] else 0


if __name__ == "__main__":
    sys.exit(main())
