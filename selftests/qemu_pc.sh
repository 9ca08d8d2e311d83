#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Debian's QEMU, as it is, boots Linux, with all interrupt controllers in the kernel. The other qemu_*.sh read
# this file, and set what differs.
machine=${machine:-pc} cpus=${cpus:-1}

mkdir -p /tmp/root
cat >/tmp/root/guest-init <<-'EOF'
	echo "CPUs: $(nproc)"
	echo "lines: $(grep -c IO-APIC /proc/interrupts)"
	echo "warnings: $(dmesg | grep -c -E 'WARNING:|BUG:|Oops|nobody cared|timer not connected')"
	sleep 0.3
	echo "end: reached"
EOF
chmod +x /tmp/root/guest-init
cp /guest/initrd /tmp/initrd
(cd /tmp/root && echo guest-init | cpio -o -H newc 2>/dev/null >>/tmp/initrd)
timeout 220 qemu-system-x86_64 -accel kvm -cpu host -M "$machine" -smp "$cpus" -m 256 -nodefaults -audio none \
	-display none -serial stdio -no-reboot -kernel /guest/bzImage -initrd /tmp/initrd \
	-append 'console=ttyS0 quiet panic=-1' </dev/null >/tmp/qemu.log 2>&1
status=$?
tr -d '\r' </tmp/qemu.log >/tmp/console

echo 1..5
# shellcheck source=ktap.sh
. "${0%/*}/ktap.sh"

said() {
	grep -q -E "^$1\$" /tmp/console
}

check "QEMU's $machine ends well" [ "$status" = 0 ]
check 'Linux reaches the end of its initramfs' said 'end: reached'
check "it has $cpus CPUs" said "CPUs: $cpus"
check 'lines come by the I/O APIC' said 'lines: [2-9]'
check 'it complains of nothing' said 'warnings: 0'
[ "$failed" = 0 ] || sed 's/^/# /' /tmp/console
exit "$failed"
