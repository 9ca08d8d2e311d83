# SPDX-License-Identifier: GPL-2.0
# Debian's own kernel for virtual machines, as its package has it.
cd "$(mktemp -d)"
apt-get -o APT::Sandbox::User=root update
package=$(apt-cache depends linux-image-cloud-amd64/stable | sed -n 's/^  Depends: \(linux-image-.*\)/\1/p')
apt-get -o APT::Sandbox::User=root download "$package"
dpkg-deb --fsys-tarfile ./*.deb | tar -x
mkdir -p "$stage/guest"
cp boot/vmlinuz-* "$stage/guest/debian-vmlinuz"
