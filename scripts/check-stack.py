#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Which functions of the module take more of the kernel's stack, of 16 KiB, than one may.

  check-stack.py OBJECT       OBJECT is build/module/kvm-intel.o

A value that is built on the stack and then moved to its box is the usual reason: make it in its place, by
KBox::init(), or in a function of its own that is not inlined."""

import bisect
import struct
import sys

from elfobject import SHT_PROGBITS, Object

LIMIT = 5 << 10
# SUB RSP, imm32
SUB_RSP = b"\x48\x81\xec"


def frames(of):
    """Yields (size, function) for each stack frame of more than 127 bytes."""
    for section, name in enumerate(of.names):
        if ".text" not in name or of.kinds[section] != SHT_PROGBITS:
            continue
        functions = of.functions(section)
        code = of.data[of.offsets[section]:of.offsets[section] + of.sizes[section]]
        at = code.find(SUB_RSP)
        while at >= 0:
            size, = struct.unpack_from("<I", code, at + len(SUB_RSP))
            owner = bisect.bisect([f[0] for f in functions], at) - 1
            # Anything else is the end of another instruction.
            if size % 8 == 0 and size < 1 << 20:
                yield size, functions[owner][1] if owner >= 0 else "?"
            at = code.find(SUB_RSP, at + 1)


def main():
    """Entry point."""
    found = sorted(set(frames(Object(sys.argv[1]))), reverse=True)
    for size, function in found:
        if size > LIMIT:
            print(f"{function}: a stack frame of {size} bytes")
    if not found:
        print("no stack frame at all was found: the code is not what this script knows how to read")
    return 1 if not found or found[0][0] > LIMIT else 0


if __name__ == "__main__":
    sys.exit(main())
