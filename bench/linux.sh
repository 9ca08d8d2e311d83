#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# What an exit of L2 costs with Linux as L1: boots Linux in a guest, which runs the bench there with its own KVM,
# says what that says, and passes its marks on to the counter. In the bed, with the guest part and /bench.
mkdir -p /tmp/root
cp /bench /tmp/root/
cat >/tmp/root/guest-init <<-EOF
	modprobe kvm-intel && /bench linux
EOF
(cat /guest/initrd && cd /tmp/root && find . | cpio -o -H newc 2>/dev/null) >/tmp/initrd
rm -rf /tmp/root
return=$(printf '\r')
vmm --kernel /guest/bzImage --initrd /tmp/initrd --cpus 1 --memory 256 --timeout 220 \
	--cmdline 'console=ttyS0 quiet reboot=k panic=-1' </dev/null | while read -r first rest; do
	rest=${rest%"$return"}
	case $first in
	mark) echo "$rest" >/sys/module/bedconsole/parameters/mark ;;
	nested | skip) echo "$first $rest" ;;
	*) echo "# $first $rest" ;;
	esac
done
