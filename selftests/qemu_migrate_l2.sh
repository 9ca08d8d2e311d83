#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# As qemu_migrate.sh, with a guest that is a hypervisor: what works and is saved is the guest of its guest.
# shellcheck disable=SC2034
memory=384 pause=0.2
# What the guest does; "work" is what its guest does.
guest() {
	mkdir -p /tmp/l2 /tmp/root/guest /tmp/root/usr/bin
	cp /tmp/work /tmp/l2/work
	echo "sh /work $rounds $pause" >/tmp/l2/guest-init
	(cat /guest/initrd && cd /tmp/l2 && find . | cpio -o -H newc 2>/dev/null) >/tmp/root/guest/initrd
	cp /guest/bzImage /tmp/root/guest/
	cp "$(command -v vmm)" /tmp/root/usr/bin/
	cat <<-EOF
		modprobe kvm-intel
		vmm --kernel /guest/bzImage --initrd /guest/initrd --memory 128 --timeout 200 \
			--cmdline 'console=ttyS0 quiet reboot=k panic=-1' </dev/null
	EOF
}
# shellcheck source=qemu_migrate.sh
. "${0%/*}/qemu_migrate.sh"
