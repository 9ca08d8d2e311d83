#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Check who may use whom in rust/: uses go down the layers, and no crate has a cycle of modules.

Read from `use crate::...` and from paths that begin with `crate::` or `super::`, tests left out. The
crates themselves (core, sys, glue) keep their order by being crates."""

import os
import re
import sys

RUST = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "rust")

# The glue, lowest first. A folder may use its own and lower ones.
GLUE_LAYERS = ["host", "vm", "arch", "run", "ioctl"]
# Inside arch::x86, lowest first; those of one line do not use each other.
ARCH_LAYERS = [
    ["mmu"],
    ["inject"],
    ["cpuid"],
    ["msr"],
    ["emulate"],
    ["nested"],
    ["exit"],
    ["enter"],
]
# Names of an architecture, that the neutral layers reach through `arch` alone.
ARCHITECTURES = {"x86", "arm64"}


def strip_noise(text):
    """Blank out comments, strings and modules of tests, keeping the lines."""
    noise = re.compile(r'//[^\n]*|/\*.*?\*/|b?r#*".*?"#*|b?"(?:\\.|[^"\\])*"|b?\'(?:\\.|[^\'\\])\'', re.S)
    text = noise.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)
    while True:
        start = re.search(r"#\[cfg\(test\)\]\s*(pub(\(crate\))?\s+)?mod\s+\w+\s*\{", text)
        if not start:
            return text
        depth, end = 1, start.end()
        while depth and end < len(text):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        text = text[:start.start()] + re.sub(r"[^\n]", " ", text[start.start():end]) + text[end:]


def tree_paths(text, at, prefix):
    """The paths of a use tree that begins at `at`: (path, end)."""
    path = list(prefix)
    paths = []
    while True:
        at = re.compile(r"\s*").match(text, at).end()
        if text.startswith("{", at):
            at += 1
            while True:
                at = re.compile(r"[\s,]*").match(text, at).end()
                if at >= len(text) or text[at] == "}":
                    return paths, at + 1
                inner, after = tree_paths(text, at, path)
                if after == at:
                    return paths, at + 1
                paths += inner
                at = after
        word = re.compile(r"(?:r#)?(\w+|\*)(\s+as\s+\w+)?\s*").match(text, at)
        if not word:
            return paths + [tuple(path)], at
        path.append(word.group(1))
        at = word.end()
        if not text.startswith("::", at):
            return paths + [tuple(path)], at
        at += 2


def uses(text, module):
    """(line, path from the crate's root) for all that `text`, of the module `module`, names."""
    for m in re.compile(r"(?<![\w:$])(crate|super|self)\s*::\s*").finditer(text):
        base = list(module) if m.group(1) != "crate" else []
        if m.group(1) == "super":
            base = base[:-1]
        at = m.end()
        while text.startswith("super::", at):
            base, at = base[:-1], at + len("super::")
        paths, _ = tree_paths(text, at, base)
        for path in paths:
            yield text.count("\n", 0, m.start()) + 1, path


def crate_files(folder, root, skip):
    """(file, module path) of a crate."""
    for top, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if os.path.join(top, f) not in skip
                      and f not in ("target", "fuzz", "tests", "benches", "examples")]
        for name in sorted(names):
            if not name.endswith(".rs") or name in ("tests.rs", "build.rs", "bindings_generated.rs"):
                continue
            path = os.path.join(top, name)
            module = os.path.relpath(path, folder)[:-3].split(os.sep)
            if module[-1] == "mod":
                module.pop()
            yield path, () if path == root else tuple(module)


def unit(path):
    """What a cycle is counted in: a top-level module, and below `x86` the one after it."""
    return path[:2] if path and path[0] in ARCHITECTURES else path[:1]


def find_cycle(graph):
    """A cycle of the graph {node: set of nodes}, or None."""
    done, stack = set(), []

    def visit(node):
        if node in stack:
            return stack[stack.index(node):] + [node]
        if node in done:
            return None
        stack.append(node)
        for after in sorted(graph.get(node, ())):
            found = visit(after)
            if found:
                return found
        stack.pop()
        done.add(node)
        return None

    for node in sorted(graph):
        found = visit(node)
        if found:
            return found
    return None


def arch_layer(path):
    """Place of `arch::x86::NAME` in its order, or None."""
    if len(path) < 3 or path[0] != "arch" or path[1] not in ARCHITECTURES:
        return None
    for place, names in enumerate(ARCH_LAYERS):
        if path[2] in names:
            return place
    return None


def glue_fault(module, path):
    """Why `module` of the glue may not name `path`, or None."""
    if module and module[0] not in GLUE_LAYERS:
        return f"{module[0]} has no place in GLUE_LAYERS of this script"
    if not module or path[0] not in GLUE_LAYERS:
        return None
    if GLUE_LAYERS.index(path[0]) > GLUE_LAYERS.index(module[0]):
        return f"{module[0]} is below {path[0]}"
    mine, its = arch_layer(module), arch_layer(path)
    if mine is not None and its is not None and module[2] != path[2] and its >= mine:
        return f"{module[2]} is not above {path[2]}"
    if not ARCHITECTURES & set(module) and module[0] != "arch" and ARCHITECTURES & set(path):
        return "a neutral layer names an architecture"
    return None


def core_fault(module, path):
    """Why `module` of core may not name `path`, or None."""
    if module and module[0] not in ARCHITECTURES and path[0] in ARCHITECTURES:
        return "a neutral module names an architecture"
    return None


def check_crate(name, folder, root, skip, fault):
    """Print the faults of one crate; the number of them."""
    faults = 0
    graph = {}
    files = list(crate_files(folder, root, skip))
    modules = {module[:n] for _, module in files for n in range(1, len(module) + 1)}
    for file, module in files:
        with open(file, encoding="utf-8") as f:
            text = strip_noise(f.read())
        for line, path in uses(text, module):
            if path[:1] not in modules:
                continue
            why = fault(module, path)
            if why:
                print(f"{os.path.relpath(file, os.path.dirname(RUST))}:{line}: uses {'::'.join(path)}: {why}")
                faults += 1
            here, there = unit(module), unit(path)
            if module and here != there and there in modules:
                graph.setdefault(here, set()).add(there)
    cycle = find_cycle(graph)
    if cycle:
        print(f"{name}: modules in a cycle: {' -> '.join('::'.join(n) for n in cycle)}")
        faults += 1
    return faults


def main():
    """Entry point."""
    core, sys_crate = os.path.join(RUST, "core"), os.path.join(RUST, "sys")
    faults = check_crate("core", core, os.path.join(core, "burrow_core.rs"), set(), core_fault)
    faults += check_crate("sys", sys_crate, os.path.join(sys_crate, "burrow_sys.rs"), set(), lambda *_: None)
    faults += check_crate("glue", RUST, os.path.join(RUST, "burrow.rs"), {core, sys_crate}, glue_fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
