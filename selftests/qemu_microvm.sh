#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# As qemu_pc.sh, with the machine that has neither PCI nor a PIT.
# shellcheck disable=SC2034
machine=microvm
# shellcheck source=qemu_pc.sh
. "${0%/*}/qemu_pc.sh"
