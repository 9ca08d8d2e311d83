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
import sys

from elfobject import Object

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
# How far before a call the address of its Location is loaded, in bytes.
WINDOW = 60


def panics(of):
    """Yields (location or None, symbol called, function) for each call of a panic."""
    for section, relocations in list(of.relocations.items()):
        if ".text" not in of.names[section]:
            continue
        functions = of.functions(section)
        places = sorted(relocations)
        for number, offset in enumerate(places):
            symbol = of.symbols[relocations[offset][0]][0]
            if not PANIC.search(symbol):
                continue
            found = None
            for before in reversed(places[max(0, number - 4):number]):
                if offset - before < WINDOW and not found:
                    found = of.location(*of.target(section, before))
            at = bisect.bisect([f[0] for f in functions], offset) - 1
            yield found, symbol, functions[at][1] if at >= 0 else "?"


def ours(path):
    """A path below rust/ of ours, or None for what is the kernel's or the compiler's."""
    found = re.match(r"(?:.*/)?(?:\./)?(rust/(?:arch|core|host|ioctl|run|sys|vm|burrow)\b.*)", path)
    return found.group(1) if found and "linux-source" not in path and "rustlib" not in path else None


def main():
    """Entry point."""
    seen, bad = collections.Counter(), []
    for place, symbol, function in panics(Object(sys.argv[1])):
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
