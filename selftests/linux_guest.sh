#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# A whole Linux as a guest of the sample VMM, with one CPU and with two: it works on a part of
# its own kernel image on all CPUs at once, comes to the host's result on each, and powers off.
count=0 failed=0

# check NAME COMMAND...: one result of the plan
check() {
	name=$1
	shift
	count=$((count + 1))
	if "$@"; then
		echo "ok $count $name"
	else
		echo "not ok $count $name"
		failed=1
	fi
}

# /guest/initrd with a first program of ours, and with what it is to work on.
make_initrd() {
	mkdir /tmp/root
	dd if=/guest/bzImage of=/tmp/root/data bs=64k count=1 skip=16 2>/dev/null
	cat >/tmp/root/guest-init <<-'EOF'
		#!/bin/sh
		echo "cpus: $(nproc)"
		grep -qw hypervisor /proc/cpuinfo && echo "hypervisor: yes"
		for cpu in $(seq 0 $(($(nproc) - 1))); do
			{
				sum=$(tr a-z n-za-m </data | taskset "$((1 << cpu))" gzip -c | sha256sum | cut -d' ' -f1)
				echo "checksum: $sum"
			} &
		done
		wait
	EOF
	cp /guest/initrd /tmp/initrd
	(cd /tmp/root && find . | cpio -o -H newc 2>/dev/null) >>/tmp/initrd
}

# boot CPUS: the guest's console goes to /tmp/console, and onto ours
boot() {
	{
		vmm --kernel /guest/bzImage --initrd /tmp/initrd --cpus "$1" --memory 128 \
			--cmdline 'console=ttyS0 quiet reboot=k panic=-1' --timeout 110 </dev/null 2>&1
		echo "vmm: $?"
	} | tr -d '\r' | tee /tmp/console | sed 's/^/# guest: /'
	grep -q '^vmm: 0$' /tmp/console
}

sees() {
	grep -q "^cpus: $1$" /tmp/console && grep -q '^hypervisor: yes$' /tmp/console
}

# Every CPU of the guest has the host's result.
same() {
	[ "$(grep -c '^checksum: ' /tmp/console)" = "$1" ] && [ "$(grep -c "^checksum: $expected\$" /tmp/console)" = "$1" ]
}

make_initrd
expected=$(tr a-z n-za-m </tmp/root/data | gzip -c | sha256sum | cut -d' ' -f1)
echo "TAP version 13"
echo "1..6"
for cpus in 1 2; do
	check "a guest with $cpus CPUs boots and powers off" boot "$cpus"
	check "it sees $cpus CPUs and a hypervisor" sees "$cpus"
	check "it computes on each what the host computes" same "$cpus"
done
exit $failed
