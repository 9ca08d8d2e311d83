#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Xen as the hypervisor in a guest: Debian's, with Debian's Linux as its first domain, which has it run a second one
# by VMX, until that speaks.
# shellcheck source=ktap.sh
. "${0%/*}/ktap.sh"
root=/tmp/first

# The first domain, and what it needs to run another.
cp -a /xen/root $root
mkdir -p $root/xen $root/run $root/var $root/etc/xen
touch $root/etc/xen/xl.conf
cp /xen/vmlinuz /guest/initrd $root/xen/
cat >$root/xen/domain <<'END'
name = "second"
type = "pvh"
kernel = "/xen/vmlinuz"
ramdisk = "/xen/initrd"
cmdline = "earlyprintk=xen,keep console=hvc0 quiet panic=-1"
memory = 128
on_poweroff = "destroy"
on_reboot = "destroy"
END
cat >$root/guest-init <<'END'
export LD_LIBRARY_PATH=/usr/lib
for module in xen-privcmd xen-evtchn xen-gntdev xenfs; do
	insmod /lib/modules/$module.ko
done
mount -t xenfs xenfs /proc/xen
echo "domain with $(cat /proc/xen/capabilities) runs"
mkdir -p /run/xen /run/xenstored /run/lock /var/lib/xen /var/lib/xenstored /var/log/xen/console
ln -s /run /var/run
xenstored
xen-init-dom0
xenconsoled --log=guest
xl create /xen/domain
sleep 300
END
(cat /guest/initrd && cd $root && find . | cpio -o -H newc 2>/dev/null) >/tmp/initrd
rm -rf $root

said() {
	grep -q "$*" /tmp/console
}

echo "TAP version 13"
qemu-system-x86_64 -accel kvm -cpu host -m 1000 -nodefaults -audio none -display none -serial stdio -no-reboot \
	-kernel /xen/xen -append 'console=com1 com1=115200,8n1 loglvl=all guest_loglvl=all dom0_mem=640M' \
	-initrd '/xen/vmlinuz console=hvc0 quiet panic=-1,/tmp/initrd' </dev/null >/tmp/console 2>&1 &
qemu=$!
waited=0
until said "(d1).*Linux version" || [ "$waited" -ge 250 ] || ! kill -0 $qemu 2>/dev/null; do
	sleep 1
	waited=$((waited + 1))
done
kill $qemu
wait $qemu
tr -d '\r' </tmp/console | sed 's/^/# /'
check "Xen runs, and finds VMX" said "VMX: Supported advanced features"
check "it finds EPT" said "HVM: Hardware Assisted Paging (HAP) detected"
check "its first domain runs" said "domain with control_d runs"
check "its second domain begins, by VMX" said "(d1).*Linux version"
echo "1..$count"
exit $failed
