#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Burrow loads on a CPU that has what it needs, runs a guest, unloads, and does so again.
# selftests/beds names the CPUs; the modules come in /modules.
# shellcheck source=ktap.sh
. "${0%/*}/ktap.sh"

load() {
	insmod /modules/kvm.ko && insmod /modules/kvm-intel.ko && [ -c /dev/kvm ]
}

# The results of its tests are subtests here: not at the margin.
run_guests() {
	./selftests real pio >/tmp/guests 2>&1
	status=$?
	sed 's/^/    /' /tmp/guests
	[ $status = 0 ] && grep -q '^ok ' /tmp/guests
}

# parameter NAME VALUE: what userspace reads is what is in force
parameter() {
	value=$(cat "/sys/module/kvm_intel/parameters/$1")
	[ "$value" = "$2" ] || ! echo "# $1 is $value"
}

# What cannot be off is on; what the CPU lacks, or Burrow makes no use of, is off.
parameters() {
	has_pml=N
	grep -q '^vmx flags.* pml' /proc/cpuinfo && has_pml=Y
	parameter ept Y && parameter vpid Y && parameter unrestricted_guest Y &&
		parameter enable_apicv N && parameter pml $has_pml
}

load_without_pml() {
	insmod /modules/kvm.ko && insmod /modules/kvm-intel.ko pml=0 && parameter pml N
}

unload() {
	rmmod kvm_intel && rmmod kvm && ! [ -e /dev/kvm ]
}

cd "$(dirname "$0")" || exit 1
modprobe irqbypass
echo "TAP version 13"
echo "1..10"
for round in first second; do
	check "$round load" load
	check "parameters after the $round load" parameters
	check "guests after the $round load" run_guests
	check "$round unload" unload
done
check "load without page-modification logging" load_without_pml
check "unload after that" unload
exit $failed
