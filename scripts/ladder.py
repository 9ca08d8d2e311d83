# SPDX-License-Identifier: GPL-2.0
"""The ladder: upstream's selftests of KVM, run without a change. The file selftests/upstream has a line for each:
what it gave on upstream KVM in the bed when that was recorded, what it is expected to give on Burrow, and why
where that is not to pass. What passes on Burrow although the file expects otherwise is wrong, too: so the file
says what is so."""

import collections
import os
import re
import subprocess

PREFIX = "upstream/"
# What a test can give. The last: it did not end in its time, or took the bed down.
RESULTS = ("pass", "skip", "fail", "hang")
SKIPPED = 4
# What `timeout -s KILL` ends with.
KILLED = 137
# The bed's own time that a test has, in seconds, and from which on a new line of the file leaves it out of the
# default run. Where a test computes, a second of the bed's takes two to four.
LIMIT_SECONDS = 60
SLOW_SECONDS = 5
VERSION_LINE = "# Recorded on upstream KVM of Linux "
HEADING = ["# Test", "Upstream", "Burrow", "Run", "Reason"]
Entry = collections.namedtuple("Entry", "test upstream burrow run reason")


class Ladder:
    """The file, and what the tests of this run gave."""

    def __init__(self, path):
        self.path = path
        self.version = None
        self.head = []
        self.entries = {}
        self.seen = {}
        self.is_recording = False
        with open(path, encoding="utf-8") as f:
            for line in f.read().splitlines():
                self._read(line)

    def _read(self, line):
        if line.startswith("#"):
            if line.startswith(VERSION_LINE):
                self.version = line[len(VERSION_LINE):]
            if not line.startswith(HEADING[0] + " "):
                self.head.append(line)
        elif line.strip():
            entry = Entry(*(line.split(None, 4) + [""])[:5])
            if entry.upstream not in RESULTS or entry.burrow not in RESULTS or entry.run not in ("default", "all"):
                raise RuntimeError(f"{self.path}: cannot read: {line}")
            if not entry.reason and (entry.run == "all" or entry.burrow != "pass" == entry.upstream):
                raise RuntimeError(f"{self.path}: no reason is given: {line}")
            self.entries[entry.test] = entry

    def write(self):
        """The file anew."""
        rows = [HEADING] + [list(e) for e in sorted(self.entries.values())]
        head = [VERSION_LINE + self.version if line.startswith(VERSION_LINE) else line for line in self.head]
        with open(self.path, "w", encoding="utf-8") as f:
            f.write("\n".join(head + columns(rows)) + "\n")

    def names(self, every, meant):
        """The tests of a run by default and those that `meant` names in full, or every one."""
        meant = [name.removeprefix(PREFIX) for name in meant]
        return [PREFIX + e.test for e in self.entries.values() if every or e.run == "default" or e.test in meant]

    def judge(self, name, kvm, result):
        """Whether a test gave what it must: (word for it, note). The word is RESULTS' own, "expected" for a failure
        that the file has and for all that is to be recorded, or "fail"."""
        test = name[len(PREFIX):]
        self.seen[test] = result
        entry = self.entries.get(test)
        if self.is_recording:
            was = entry.upstream if entry else "not there"
            return "expected", "the same" if was == result else f"was: {was}"
        if entry is None:
            return "fail", "it is not in selftests/upstream"
        wanted = entry.upstream if kvm == "upstream" else entry.burrow
        if result == wanted:
            return (result if result in ("pass", "skip") else "expected"), "as selftests/upstream has it"
        if result == "pass":
            return "fail", f"it passes, and selftests/upstream says {wanted}"
        return "fail", f"result: {result}, expected: {wanted}"

    def record(self, seconds):
        """Take what was seen for what upstream gives; `seconds` has the time that each took."""
        for test, result in self.seen.items():
            old = self.entries.get(test)
            if old:
                self.entries[test] = old._replace(upstream=result)
                continue
            slow = result == "hang" or seconds.get(test, 0) > SLOW_SECONDS
            run = ("all", "slow in the bed") if slow else ("default", "")
            self.entries[test] = Entry(test, result, result, *run)

    def table(self, kvm):
        """Lines: test, upstream, this run."""
        here = "Upstream now" if kvm == "upstream" else "Burrow"
        rows = [["Test", "Upstream", here, "Reason"]]
        for test in sorted(self.seen):
            entry = self.entries.get(test, Entry(test, "-", "-", "", ""))
            rows.append([test, entry.upstream, self.seen[test], entry.reason if self.seen[test] != "pass" else ""])
        return columns(rows)


def columns(rows):
    """Rows of words as lines, the last column as it comes."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]) - 1)]
    return ["  ".join([word.ljust(w) for word, w in zip(row, widths)] + row[len(widths):]).rstrip() for row in rows]


def output_of(*command):
    """What a command prints."""
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True, text=True).stdout


def result_of(status):
    """The word for an exit status."""
    return {0: "pass", SKIPPED: "skip", KILLED: "hang"}.get(status, "fail")


def programs(scripts):
    """The tests that the bed has."""
    part = output_of(os.path.join(scripts, "part"), "selftests").strip()
    inside = "/parts/" + os.path.basename(part)
    listing = output_of(os.path.join(scripts, "enter"), "sh", "-c", f"cpio -itv --quiet <{inside}")
    return sorted(re.findall(r"^-.* (?:\./)?selftests/kvm/(\S+)$", listing, re.M))


def kernel_version(scripts):
    """The version of Linux that the bed's KVM and selftests are from."""
    source = output_of(os.path.join(scripts, "kernel"), "--source").strip()
    makefile = output_of(os.path.join(scripts, "enter"), "head", "-n", "6", source + "/Makefile")
    fields = dict(re.findall(r"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION) = *(\S*)$", makefile, re.M))
    return f"{fields['VERSION']}.{fields['PATCHLEVEL']}.{fields['SUBLEVEL']}{fields['EXTRAVERSION']}"
