#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Debian's gdb debugs a boot sector in Debian's QEMU: breakpoints of both kinds, single steps, a watchpoint.
bytes() {
	for byte in "$@"; do
		printf '%b' "\\x$byte"
	done
}

# 7c00: xor ax,ax; mov ds,ax; mov cx,5
bytes 31 c0 8e d8 b9 05 00 >/tmp/boot
# 7c07: inc word [0x7e00]; 7c0b: loop 7c07; mov al,0x10; out 0xf4,al; hlt
bytes ff 06 00 7e e2 fa b0 10 e6 f4 f4 >>/tmp/boot
dd if=/dev/zero of=/tmp/boot bs=1 seek=18 count=492 2>/dev/null
bytes 55 aa >>/tmp/boot

cat >/tmp/script <<-'EOF'
	set pagination off
	set confirm off
	target remote /tmp/gdb
	hbreak *0x7c00
	continue
	printf "hardware breakpoint: %x\n", $rip
	break *0x7c07
	continue
	printf "software breakpoint: %x\n", $rip
	delete
	stepi
	printf "step: %x\n", $rip
	stepi
	printf "step back: %x\n", $rip
	watch *(unsigned short *)0x7e00
	continue
	printf "watchpoint: %x %d\n", $rip, *(unsigned short *)0x7e00
	delete
	continue
EOF
timeout 100 qemu-system-x86_64 -accel kvm -cpu host -M pc -m 64 -nodefaults -audio none -display none -no-reboot \
	-device isa-debug-exit,iobase=0xf4 -drive file=/tmp/boot,format=raw \
	-chardev socket,path=/tmp/gdb,server=on,wait=off,id=gdb -gdb chardev:gdb -S </dev/null >/tmp/qemu.log 2>&1 &
qemu=$!
until [ -S /tmp/gdb ] || ! kill -0 $qemu 2>/dev/null; do
	sleep 0.1
done
HOME=/tmp timeout 100 gdb -q -nx -batch -x /tmp/script </dev/null >/tmp/gdb.log 2>&1
wait $qemu
status=$?

echo 1..6
# shellcheck source=ktap.sh
. "${0%/*}/ktap.sh"

said() {
	grep -q -x "$*" /tmp/gdb.log
}

check 'a hardware breakpoint stops the guest' said hardware breakpoint: 7c00
check 'a software breakpoint stops it' said software breakpoint: 7c07
check 'it steps by one instruction' said step: 7c0b
check 'it steps over a branch' said step back: 7c07
check 'a watchpoint stops it after the write' said watchpoint: 7c0b 2
check 'it goes on to its end' [ $status = 33 ]
[ "$failed" = 0 ] || sed 's/^/# /' /tmp/gdb.log /tmp/qemu.log
exit "$failed"
