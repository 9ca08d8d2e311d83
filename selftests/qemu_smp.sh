#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# As qemu_q35.sh, with two vCPUs.
# shellcheck disable=SC2034
machine=q35 cpus=2
# shellcheck source=qemu_pc.sh
. "${0%/*}/qemu_pc.sh"
