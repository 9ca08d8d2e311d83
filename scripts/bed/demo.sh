#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# What `make run` does in the bed: boot a Linux guest with the sample VMM, have it work, and compare.
# Every line says which level speaks.
work() {
	cat /guest/bzImage | tr a-z n-za-m | gzip -c | sha256sum | cut -d' ' -f1
}

level() {
	while IFS= read -r line; do
		echo "$1 | $line"
	done
}

host() {
	echo "$*" | level 'bed  '
}

host "$(uname -sr), $(nproc) CPU, $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)"
host "modules: $(lsmod | awk 'NR > 1 && /^kvm/ { print $1 }' | tr '\n' ' ')"
expected=$(work)
host "checksum of the compressed kernel image, computed here: $expected"
for cpus in ${GUEST_CPUS:-1}; do
	host "booting the same kernel as a guest with $cpus CPU"
	{
		vmm --kernel /guest/bzImage --initrd /guest/initrd --cpus "$cpus" --memory 256 \
			--cmdline 'console=ttyS0 quiet reboot=k panic=-1' --timeout 120 </dev/null 2>&1
		echo "vmm ended with status $?"
	} | tr -d '\r' | tee /tmp/console | level 'guest'
	grep -q 'vmm ended with status 0' /tmp/console || { host 'the VMM failed'; exit 1; }
	grep -q "^checksum: $expected$" /tmp/console || { host 'the guest computed something else'; exit 1; }
	host 'the guest computed the same, and powered off'
done
host 'booting Linux with a KVM of its own as a guest (L1), and Linux as the guest of that (L2)'
{
	sh /nested/nested_linux.sh
	echo "status $?"
} | tee /tmp/nested | sed -n 's/^# //p' | level 'L1 L2'
grep -q '^status 0$' /tmp/nested || { host 'the guest hypervisor or its guest failed'; exit 1; }
host 'L2 ran, L2 and L1 powered off'
