# SPDX-License-Identifier: GPL-2.0
# Debian's Xen, in /xen: the hypervisor, a kernel for its domains, and in /xen/root the files of the first domain.
cd "$(mktemp -d)"
apt-get -o APT::Sandbox::User=root update
linux=$(apt-cache depends linux-image-amd64/stable | sed -n 's/^  Depends: \(linux-image-.*\)/\1/p')
apt-get -o APT::Sandbox::User=root download "$linux" xen-hypervisor-4.20-amd64 xen-utils-4.20 xenstore-utils \
	libxenmisc4.20 libxencall1 libxendevicemodel1 libxenevtchn1 libxenforeignmemory1 libxengnttab1 libxenhypfs1 \
	libxenstore4 libxentoolcore1 libxentoollog1 libblkid1 libbz2-1.0 libc6 libcom-err2 libext2fs2t64 liblzma5 \
	libncurses6 libtinfo6 libuuid1 libyajl2 libzstd1 zlib1g
for package in ./*.deb; do
	dpkg-deb --fsys-tarfile "$package" | tar -x
done
root=$stage/xen/root
mkdir -p "$root/lib64" "$root/lib/modules" "$root/usr/bin" "$root/usr/lib"
zcat boot/xen-4.20-amd64.gz >"$stage/xen/xen"
cp boot/vmlinuz-* "$stage/xen/vmlinuz"
for module in xen-privcmd xen-evtchn xen-gntdev xenfs; do
	find . -name "$module.ko.xz" -exec xz -dc {} \; >"$root/lib/modules/$module.ko"
done
for program in xl xenstored xenconsoled xen-init-dom0; do
	cp "usr/lib/xen-4.20/bin/$program" "$root/usr/bin/"
done
find usr/lib/x86_64-linux-gnu usr/lib/xen-4.20 -name '*.so*' -not -path '*/gconv/*' -exec cp -a {} "$root/usr/lib/" \;
cp -L usr/lib64/ld-linux-x86-64.so.2 "$root/lib64/"
