#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Programs other than Linux in Debian's QEMU: a boot sector that SeaBIOS loads from a disk, and a multiboot image that
# starts with paging off and turns PAE paging on. Each says by the serial port how far it has come, and ends the machine.
run() {
	name=$1
	shift
	timeout 60 qemu-system-x86_64 -accel kvm -cpu host -M pc -m 64 -nodefaults -audio none -display none -no-reboot \
		-serial "file:/tmp/$name.console" -device isa-debug-exit,iobase=0xf4 "$@" </dev/null >"/tmp/$name.log" 2>&1
}

# bytes HEX...: those bytes
bytes() {
	for byte in "$@"; do
		printf '%b' "\\x$byte"
	done
}

# Real mode: mov dx,0x3f8; mov al,'B'; out dx,al; mov al,0x10; out 0xf4,al; hlt
bytes ba f8 03 b0 42 ee b0 10 e6 f4 f4 >/tmp/boot
dd if=/dev/zero of=/tmp/boot bs=1 seek=11 count=499 2>/dev/null
bytes 55 aa >>/tmp/boot

{
	# The multiboot header: loaded at 1 MiB, entered at 1 MiB + 20H.
	bytes 02 b0 ad 1b 00 00 01 00 fe 4f 51 e4 00 00 10 00 00 00 10 00 00 00 00 00 00 00 00 00 20 00 10 00
	# mov edx,0x3f8; mov al,'P'; out dx,al
	bytes ba f8 03 00 00 b0 50 ee
	# The PDPT at 2 MiB, one page directory after it: mov dword [0x200000],0x201001
	bytes c7 05 00 00 20 00 01 10 20 00
	# Three large pages; the third maps the first frame again: mov dword [0x201000],0x83, and so on
	bytes c7 05 00 10 20 00 83 00 00 00 c7 05 08 10 20 00 83 00 20 00 c7 05 10 10 20 00 83 00 00 00
	# mov eax,0x20; mov cr4,eax; mov eax,0x200000; mov cr3,eax
	bytes b8 20 00 00 00 0f 22 e0 b8 00 00 20 00 0f 22 d8
	# mov eax,cr0; or eax,0x80000000; mov cr0,eax
	bytes 0f 20 c0 0d 00 00 00 80 0f 22 c0
	# mov al,[0x5000a0]; out dx,al: what is at 1000a0H
	bytes a0 a0 00 50 00 ee
	# mov eax,0x11; out 0xf4,al; hlt
	bytes b8 11 00 00 00 e6 f4 f4
} >/tmp/image
size=$(wc -c </tmp/image)
dd if=/dev/zero of=/tmp/image bs=1 seek="$size" count=$((160 - size)) 2>/dev/null
bytes 45 >>/tmp/image

run sector -drive file=/tmp/boot,format=raw
sector=$?
run image -kernel /tmp/image
image=$?

echo 1..4
# shellcheck source=ktap.sh
. "${0%/*}/ktap.sh"

check 'SeaBIOS starts a boot sector' [ "$(cat /tmp/sector.console)" = B ]
check 'it ends the machine' [ $sector = 33 ]
check 'a 32-bit program turns PAE paging on' [ "$(cat /tmp/image.console)" = PE ]
check 'it ends the machine, too' [ $image = 35 ]
[ "$failed" = 0 ] || sed 's/^/# /' /tmp/*.console /tmp/*.log
exit "$failed"
