#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# As nested_linux.sh, with Burrow in the guest, too.
set -- 2 burrow
# shellcheck source=nested_linux.sh
. "${0%/*}/nested_linux.sh"
