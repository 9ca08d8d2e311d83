#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# What `make run` does in its guest; see demo.sh.
echo "$(uname -sr), $(nproc) CPU, $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)"
grep -q hypervisor /proc/cpuinfo && echo "running under a hypervisor"
echo "checksum: $(tr a-z n-za-m </bzImage | gzip -c | sha256sum | cut -d' ' -f1)"
