#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Debian's own kernel, which was built for nothing of this project, as the guest of the sample VMM.
# Something to compute; the same text for the guest.
work="seq 20000 | gzip -c | sha256sum | cut -d ' ' -f 1"

mkdir -p /tmp/root
cat >/tmp/root/guest-init <<-EOF
	echo "kernel: \$(uname -r)"
	echo "hypervisor: \$(dmesg | sed -n 's/.*Hypervisor detected: //p')"
	echo "clock: \$(dmesg | grep -o -m1 'kvm-clock: using sched offset')"
	echo "checksum: \$($work)"
	echo "warnings: \$(dmesg | grep -c -E 'WARNING:|BUG:|Oops')"
EOF
cp /guest/initrd /tmp/initrd
(cd /tmp/root && echo guest-init | cpio -o -H newc 2>/dev/null >>/tmp/initrd)
vmm --kernel /guest/debian-vmlinuz --initrd /tmp/initrd --memory 256 --timeout 200 \
	--cmdline 'console=ttyS0 quiet reboot=k panic=-1' </dev/null >/tmp/vmm.log 2>&1
status=$?
tr -d '\r' </tmp/vmm.log >/tmp/console

echo 1..6
# shellcheck source=ktap.sh
. "${0%/*}/ktap.sh"

said() {
	grep -q -E "^$1\$" /tmp/console
}

check 'the VMM ends well' [ "$status" = 0 ]
check "Debian's kernel runs" said 'kernel: .*deb.*-cloud-amd64'
check 'it knows KVM' said 'hypervisor: KVM'
check 'it reads the clock that KVM gives it' said 'clock: kvm-clock: using sched offset'
check 'it computes what the host does' said "checksum: $(eval "$work")"
check 'it complains of nothing' said 'warnings: 0'
[ "$failed" = 0 ] || sed 's/^/# /' /tmp/console
exit "$failed"
