#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Burrow refuses a CPU that lacks what it needs: kvm-intel does not load, says why in one line of the log,
# and leaves nothing behind. selftests/beds names the CPUs; the modules come in /modules.
# shellcheck source=ktap.sh
. "${0%/*}/ktap.sh"

refused() {
	! insmod /modules/kvm-intel.ko 2>/tmp/insmod && grep -q 'Operation not supported' /tmp/insmod
}

# What the kernel said since the line numbered $before, without the time.
said() {
	dmesg | tail -n +"$((before + 1))" | sed 's/^\[[^]]*\] *//'
}

# Busybox asks twice, by finit_module() and by init_module(): one line for each.
one_line() {
	said | sed 's/^/# /'
	[ "$(said | wc -l)" -le 2 ] && [ "$(said | sort -u | wc -l)" = 1 ]
}

reason() {
	if grep -qw vmx /proc/cpuinfo; then
		said | grep -q 'kvm_intel: this CPU lacks [A-Za-z]'
	else
		said | grep -qF 'kvm_intel: this CPU has no VT-x (VMX)'
	fi
}

nothing_left() {
	! [ -e /dev/kvm ] && ! [ -e /sys/module/kvm_intel ]
}

modprobe irqbypass
insmod /modules/kvm.ko
before=$(dmesg | wc -l)
echo "TAP version 13"
echo "1..4"
check "kvm-intel is refused with EOPNOTSUPP" refused
check "the kernel says one line" one_line
check "the line names what the CPU lacks" reason
check "no /dev/kvm and no module is left" nothing_left
exit $failed
