#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Check that the tests that Documentation/nested-bugs.rst names are there."""

import os
import re
import sys

TOP = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


def text_of(*path):
    """A file, as text."""
    with open(os.path.join(TOP, *path), encoding="utf-8") as f:
        return f.read()


def tests_of_core():
    """Names of functions in core, of which tests are some."""
    names = set()
    for folder, _, files in os.walk(os.path.join(TOP, "rust", "core")):
        for name in files:
            if name.endswith(".rs"):
                names.update(re.findall(r"\bfn (\w+)\(", text_of(folder, name)))
    return names


def main():
    """Entry point."""
    rows = text_of("Documentation", "nested-bugs.rst").split("list-table::")[1]
    core = tests_of_core()
    groups = set(re.findall(r'\("(\w+)", \w+::\w+\)', text_of("selftests", "nested", "src", "main.rs")))
    upstream = set(text_of("selftests", "upstream").split())
    missing = []
    for name in re.findall(r"``([^`]+)``", rows):
        if name.startswith("x86/"):
            is_there = name in upstream
        elif "." in name:
            is_there = name.split(".")[0] in groups
        else:
            is_there = name in core
        if not is_there:
            missing.append(name)
    for name in missing:
        print(f"Documentation/nested-bugs.rst: no such test: {name}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
