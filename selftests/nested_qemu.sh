#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# As nested_linux.sh, with Debian's QEMU in the guest, and all interrupt controllers in the kernel there.
set -- 2 upstream qemu
# shellcheck source=nested_linux.sh
. "${0%/*}/nested_linux.sh"
