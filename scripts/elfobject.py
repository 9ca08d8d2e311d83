# SPDX-License-Identifier: GPL-2.0
"""What the scripts that read the module's code know of object files."""

import collections
import struct

SHT_PROGBITS, SHT_SYMTAB, SHT_RELA = 1, 2, 4
STT_FUNC = 2
# Relative to the end of the field, which is 4 bytes behind its start.
PC_RELATIVE = (2, 4)


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

    def functions(self, section):
        """(offset, name) of the functions of a section, by offset."""
        return sorted((s[3], s[0]) for s in self.symbols if s[1] == STT_FUNC and s[2] == section)
