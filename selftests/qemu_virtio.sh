#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Debian's kernel in Debian's QEMU moves data over virtio disks and a virtio network card, with two vCPUs on whatever
# CPUs there are. Disks interrupt by irqfd, the card by messages that QEMU sends, and both are kicked by ioeventfd.
rm -rf /tmp/root
mkdir -p /tmp/root/modules /tmp/tftp
cp /guest/debian-modules/*.ko /tmp/root/modules/
cat >/tmp/root/guest-init <<-'EOF'
	for module in virtio_blk failover net_failover virtio_net; do
		insmod /modules/$module.ko
	done
	cd /tmp
	dd if=/dev/vda of=/dev/vdb bs=64k conv=fsync 2>/dev/null
	ip addr add 10.0.2.15/24 dev eth0
	ip link set eth0 up
	tftp -g -b 1400 -r file 10.0.2.2 2>/dev/null
	# The other side never closes.
	timeout 3 nc 10.0.2.100 80 <file
	for what in virtio0-req virtio1-req virtio2-input; do
		echo "interrupts of $what: $(grep $what /proc/interrupts | awk '{ n += $2 + $3 } END { print n }')"
	done
	echo "CPUs: $(nproc)"
	echo "faults: $(dmesg | grep -c -E 'WARNING:|BUG:|Oops|nobody cared| stall')"
	echo "end: reached"
EOF
cp /guest/initrd /tmp/initrd
(cd /tmp/root && find . | cpio -o -H newc 2>/dev/null >>/tmp/initrd)
dd if=/dev/urandom of=/tmp/from bs=64k count=64 2>/dev/null
dd if=/dev/zero of=/tmp/to bs=64k count=64 2>/dev/null
dd if=/dev/urandom of=/tmp/tftp/file bs=64k count=8 2>/dev/null
timeout 220 qemu-system-x86_64 -accel kvm -cpu host -M q35 -smp 2 -m 256 -nodefaults -audio none \
	-display none -serial stdio -no-reboot -kernel /guest/debian-vmlinuz -initrd /tmp/initrd \
	-blockdev driver=file,filename=/tmp/from,node-name=from -device virtio-blk-pci,drive=from \
	-blockdev driver=file,filename=/tmp/to,node-name=to -device virtio-blk-pci,drive=to \
	-chardev file,id=received,path=/tmp/received \
	-netdev user,id=net,tftp=/tmp/tftp,guestfwd=tcp:10.0.2.100:80-chardev:received \
	-device virtio-net-pci,netdev=net,romfile= \
	-append 'console=ttyS0 quiet panic=-1 net.ifnames=0' </dev/null >/tmp/qemu.log 2>&1
status=$?
tr -d '\r' </tmp/qemu.log >/tmp/console

echo 1..8
# shellcheck source=ktap.sh
. "${0%/*}/ktap.sh"

said() {
	grep -q -x -E "$*" /tmp/console
}

check 'QEMU ends well' [ "$status" = 0 ]
check 'Linux reaches the end of its initramfs' said end: reached
check 'it has 2 CPUs' said CPUs: 2
check 'what it copies from disk to disk is whole' cmp /tmp/from /tmp/to
check 'what it fetches over the network and sends back is whole' cmp /tmp/tftp/file /tmp/received
check 'disks interrupt' said 'interrupts of virtio1-req: [1-9].*'
check 'the card interrupts' said 'interrupts of virtio2-input: [1-9].*'
check 'it complains of nothing' said faults: 0
[ "$failed" = 0 ] || sed 's/^/# /' /tmp/console
exit "$failed"
