#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# As qemu_migrate.sh, with two vCPUs, and local APICs alone in the kernel.
# shellcheck disable=SC2034
machine=q35,kernel-irqchip=split cpus=2
# shellcheck source=qemu_migrate.sh
. "${0%/*}/qemu_migrate.sh"
