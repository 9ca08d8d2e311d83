#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Programs that look at KVM from outside, as they are: kvm_stat of the kernel's source, which reads debugfs and counts
# tracepoints, and Debian's perf.
debugfs=/sys/kernel/debug/kvm
cat >/tmp/guest-init <<-EOF
	while :; do
		cat /proc/cpuinfo >/dev/null
	done
EOF
(cat /guest/initrd && cd /tmp && echo guest-init | cpio -o -H newc 2>/dev/null) >/tmp/initrd
vmm --kernel /guest/bzImage --initrd /tmp/initrd --memory 128 --timeout 200 --cmdline 'console=ttyS0 quiet panic=-1' \
	</dev/null >/tmp/vmm.log 2>&1 &
vmm=$!
until ls -d $debugfs/$vmm-* >/dev/null 2>&1 || ! kill -0 $vmm 2>/dev/null; do
	sleep 0.1
done
sleep 0.5
folder=$(echo $debugfs/$vmm-*)
python3 /usr/bin/kvm_stat -1 -d >/tmp/all.log 2>&1
python3 /usr/bin/kvm_stat -1 -d -p $vmm >/tmp/one.log 2>&1
python3 /usr/bin/kvm_stat -1 -t >/tmp/events.log 2>&1
perf kvm --host stat record -o /tmp/perf.data -p $vmm sleep 0.3 >/tmp/record.log 2>&1
perf kvm -i /tmp/perf.data --host stat report >/tmp/report.log 2>&1
mapped=$(cat "$folder/pages_4k")
before=$(cat "$folder/exits")
echo 0 >"$folder/exits"
after=$(cat "$folder/exits")
echo 1 2>/dev/null >"$folder/exits"
refused=$?
kill $vmm
wait $vmm 2>/dev/null

echo 1..8
# shellcheck source=ktap.sh
. "${0%/*}/ktap.sh"

# counted FILE NAME: whether FILE of kvm_stat has NAME with a count of events
counted() {
	grep -q -E "^ *$2 +[1-9][0-9]* " "$1"
}

check 'kvm_stat reads the statistics of all VMs' counted /tmp/all.log exits
check 'kvm_stat reads those of one' counted /tmp/one.log exits
check 'kvm_stat counts tracepoints' counted /tmp/events.log kvm_exit
check 'perf finds out why the guest exits' grep -q -E '^ +(CPUID|EXTERNAL_INTERRUPT|EPT_VIOLATION) ' /tmp/report.log
check 'a VM has a folder with its statistics' [ "$mapped" -gt 0 ]
check 'what is written to a file sets it to 0' [ "$after" -lt "$before" ]
check 'any other number is refused' [ $refused != 0 ]
check 'the folder goes with the VM' [ ! -e "$folder" ]
[ "$failed" = 0 ] || sed 's/^/# /' /tmp/*.log
exit "$failed"
