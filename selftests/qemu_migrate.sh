#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Debian's QEMU saves a running guest to a file and ends; another QEMU takes the guest up from there. The other
# qemu_migrate_*.sh read this file, and set what differs.
machine=${machine:-pc} cpus=${cpus:-1} memory=${memory:-128} pause=${pause:-0.01}
rounds=40
# What the guest does, as a script; the programs for that are in /tmp/root.
command -v guest >/dev/null || guest() {
	echo "sh /work $rounds $pause"
}

# What the guest computes, a checksum of checksums; the same text runs here. It is not done before it is saved.
cat >/tmp/work <<-'EOF'
	sum=begin round=0
	while [ "$round" -lt "$1" ]; do
		sum=$(echo "$sum $round" | sha256sum | cut -d ' ' -f 1)
		round=$((round + 1))
		[ -z "$2" ] || { echo "round $round"; sleep "$2"; }
	done
	echo "checksum: $sum"
EOF
rm -rf /tmp/root /tmp/l2 /tmp/first.* /tmp/second.*
mkdir -p /tmp/root
cp /tmp/work /tmp/root/work
cat >/tmp/root/guest-init <<-EOF
	$(guest)
	echo "CPUs: \$(nproc)"
	echo "faults: \$(dmesg | grep -c -E 'WARNING:|BUG:|Oops|nobody cared| stall')"
	echo "end: reached"
EOF
cp /guest/initrd /tmp/initrd
(cd /tmp/root && find . | cpio -o -H newc 2>/dev/null >>/tmp/initrd)

# qemu WHICH ARGUMENT...: in the background; its console in /tmp/WHICH.console, its monitor the pipe /tmp/WHICH
qemu() {
	which=$1
	shift
	mkfifo "/tmp/$which.in" "/tmp/$which.out"
	: >"/tmp/$which.console"
	timeout 150 qemu-system-x86_64 -accel kvm -cpu host -M "$machine" -smp "$cpus" -m "$memory" -nodefaults \
		-audio none -display none -serial "file:/tmp/$which.console" \
		-chardev "pipe,id=monitor,path=/tmp/$which" -monitor chardev:monitor -no-reboot \
		-kernel /guest/bzImage -initrd /tmp/initrd -append 'console=ttyS0 quiet panic=-1' "$@" \
		</dev/null >"/tmp/$which.log" 2>&1 &
	pid=$!
	cat "/tmp/$which.out" >"/tmp/$which.monitor" &
}

# said WHICH TEXT...: whether TEXT is a line of its console
said() {
	which=$1
	shift
	tr -d '\r' <"/tmp/$which.console" | grep -q -x -E "$*"
}

# tell_first COMMAND WORD: gives the monitor COMMAND again and again until it answers WORD
tell_first() {
	until grep -q "$2" /tmp/first.monitor || ! kill -0 $pid 2>/dev/null; do
		echo "$1" >/tmp/first.in
		sleep 0.1
	done
}

qemu first
until said first round 10 || ! kill -0 $pid 2>/dev/null; do
	sleep 0.1
done
echo 'migrate file:/tmp/state' >/tmp/first.in
tell_first 'info status' postmigrate
echo quit >/tmp/first.in
wait $pid
first=$?
qemu second -incoming file:/tmp/state
wait $pid
second=$?
rm -f /tmp/state /tmp/*.in /tmp/*.out
result=$(sh /tmp/work $rounds)

echo 1..8
# shellcheck source=ktap.sh
. "${0%/*}/ktap.sh"

check "QEMU's $machine saves the guest and ends" [ $first = 0 ]
check 'the guest had not come to its end' [ -z "$(grep end: /tmp/first.console)" ]
check 'the guest goes on in the QEMU that restores it, to its end' [ $second = 0 ]
check 'it begins nothing anew' [ -z "$(grep -w 'round 1' /tmp/second.console)" ]
check 'it computes what the host does' said second "$result"
check "it has its $cpus CPUs" said second "CPUs: $cpus"
check 'its timers and its console work' said second end: reached
check 'it complains of nothing' said second faults: 0
[ "$failed" = 0 ] || sed 's/^/# /' /tmp/first.console /tmp/second.console /tmp/second.log /tmp/second.monitor | tr -d '\r'
exit "$failed"
