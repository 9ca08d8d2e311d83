#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# As qemu_pc.sh, with local APICs alone in the kernel.
# shellcheck disable=SC2034
machine=pc,kernel-irqchip=split
# shellcheck source=qemu_pc.sh
. "${0%/*}/qemu_pc.sh"
