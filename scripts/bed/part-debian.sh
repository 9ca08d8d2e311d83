# SPDX-License-Identifier: GPL-2.0
# Debian's own kernel for virtual machines, as its package has it, and of its modules those for virtio.
cd "$(mktemp -d)"
apt-get -o APT::Sandbox::User=root update
package=$(apt-cache depends linux-image-cloud-amd64/stable | sed -n 's/^  Depends: \(linux-image-.*\)/\1/p')
apt-get -o APT::Sandbox::User=root download "$package"
dpkg-deb --fsys-tarfile ./*.deb | tar -x
mkdir -p "$stage/guest/debian-modules"
cp boot/vmlinuz-* "$stage/guest/debian-vmlinuz"
for module in virtio_mmio virtio_blk failover net_failover virtio_net; do
	xz -dc "$(find usr/lib/modules -name "$module.ko.xz")" >"$stage/guest/debian-modules/$module.ko"
done
