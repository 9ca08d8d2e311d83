# SPDX-License-Identifier: GPL-2.0
"""Build the cargo workspace of the current folder and copy its programs, and nothing older, to a folder."""

import json
import os
import shutil
import subprocess
import sys

TARGET = "x86_64-unknown-linux-gnu"


def main():
    """Entry point: build_programs.py FOLDER."""
    out = sys.argv[1]
    env = dict(os.environ, RUSTFLAGS="-C target-feature=+crt-static")
    cargo = ["cargo", "build", "--release", "--locked", "--target", TARGET, "--bins",
             "--message-format=json-render-diagnostics"]
    done = subprocess.run(cargo, env=env, stdout=subprocess.PIPE, check=False, text=True)
    if done.returncode:
        return done.returncode
    messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    programs = [m["executable"] for m in messages if m.get("executable")]
    if not programs:
        print("no programs were built", file=sys.stderr)
        return 1
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    for program in programs:
        shutil.copy2(program, out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
