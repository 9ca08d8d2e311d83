#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Hypervisors in guests: Linux with a KVM and a VMM of its own runs Linux. Each level has as many CPUs as the bed.
# nested_linux.sh [LEVELS [KVM [VMM]]]: LEVELS of hypervisors below the last guest, 2 unless told; in those but the
# first the in-tree KVM, or Burrow where KVM is burrow; and the sample VMM, or Debian's QEMU where VMM is qemu.
levels=${1:-2} kvm=${2:-upstream} vmm=${3:-vmm}
cpus=$(nproc)
# shellcheck source=ktap.sh
. "${0%/*}/ktap.sh"

# root LEVEL: the files of the guest of hypervisor LEVEL, which is a hypervisor itself but for the last
root() {
	rm -rf /tmp/root
	mkdir -p /tmp/root
	cat >/tmp/root/guest-init <<-EOF
		echo "guest of \$(grep -o -m1 hypervisor /proc/cpuinfo) $1 has \$(nproc) CPU"
	EOF
	[ "$1" -lt "$levels" ] || return 0
	mkdir -p /tmp/root/guest /tmp/root/usr/bin /tmp/root/modules
	cp /guest/bzImage /tmp/root/guest/
	cp "/tmp/initrd.$(($1 + 1))" /tmp/root/guest/initrd
	cp "$(command -v vmm)" /tmp/root/usr/bin/
	load='modprobe kvm-intel'
	if [ "$kvm" = burrow ]; then
		cp /modules/*.ko /tmp/root/modules/
		load='modprobe irqbypass && insmod /modules/kvm.ko && insmod /modules/kvm-intel.ko'
	fi
	memory=$((128 + 128 * (levels - $1 - 1)))
	run="vmm --kernel /guest/bzImage --initrd /guest/initrd --cpus $cpus --memory $memory --timeout 200 \
		--cmdline 'console=ttyS0 quiet reboot=k panic=-1'"
	if [ "$vmm" = qemu ]; then
		mkdir -p /tmp/root/usr/lib /tmp/root/usr/share
		cp -a /usr/lib/x86_64-linux-gnu /tmp/root/usr/lib/
		cp -a /usr/share/qemu /tmp/root/usr/share/
		cp /usr/bin/qemu-system-x86_64 /tmp/root/usr/bin/
		run="qemu-system-x86_64 -accel kvm -cpu host -smp $cpus -m $memory -nodefaults -audio none -display none \
			-serial stdio -no-reboot -kernel /guest/bzImage -initrd /guest/initrd \
			-append 'console=ttyS0 quiet reboot=t panic=-1'"
	fi
	cat >>/tmp/root/guest-init <<-EOF
		$load && echo "hypervisor $(($1 + 1)) is loaded"
		$run </dev/null
		echo "VMM of hypervisor $(($1 + 1)) ended with status \$?"
		rmmod kvm-intel && echo "hypervisor $(($1 + 1)) is unloaded"
	EOF
}

said() {
	grep -q "$*" /tmp/console
}

echo "TAP version 13"
level=$levels
while [ "$level" -ge 1 ]; do
	root "$level"
	(cat /guest/initrd && cd /tmp/root && find . | cpio -o -H newc 2>/dev/null) >"/tmp/initrd.$level"
	level=$((level - 1))
done
rm -rf /tmp/root
memory=384
[ "$vmm" != qemu ] || memory=768
vmm --kernel /guest/bzImage --initrd /tmp/initrd.1 --cpus "$cpus" --memory $memory --timeout 220 \
	--cmdline 'console=ttyS0 quiet reboot=k panic=-1' </dev/null >/tmp/console 2>&1
status=$?
sed 's/^/# /' /tmp/console | tr -d '\r'
level=1
while [ "$level" -lt "$levels" ]; do
	check "hypervisor $((level + 1)) is loaded" said "hypervisor $((level + 1)) is loaded"
	level=$((level + 1))
done
check "the last guest runs" said "guest of hypervisor $levels has $cpus CPU"
while [ "$level" -gt 1 ]; do
	check "the VMM of hypervisor $level ends" said "VMM of hypervisor $level ended with status 0"
	check "hypervisor $level is unloaded" said "hypervisor $level is unloaded"
	level=$((level - 1))
done
check "the VMM of hypervisor 1 ends" test $status = 0
echo "1..$count"
exit $failed
