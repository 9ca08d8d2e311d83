# SPDX-License-Identifier: GPL-2.0
# Programs that look at KVM from outside, as Debian and the kernel's source have them: gdb, perf, kvm_stat.
debs=$(mktemp -d)
mkdir -p "$debs/root" "$debs/archives/partial"
apt-get -o APT::Sandbox::User=root update
apt-get -o APT::Sandbox::User=root -o Dir::Cache::archives="$debs/archives" --no-install-recommends -y \
	--download-only install gdb linux-perf/trixie-backports
for deb in "$debs"/archives/*.deb; do
	dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$debs/root"
done
lib=usr/lib/x86_64-linux-gnu
mkdir -p "$stage/usr/bin" "$stage/$lib" "$stage/usr/lib/python3.13"
cp "$debs/root/usr/bin/gdb" "$debs/root/usr/bin/perf" "$stage/usr/bin/"
cp -L /usr/bin/python3 "$stage/usr/bin/"
cp "$4/tools/kvm/kvm_stat/kvm_stat" "$stage/usr/bin/"
cp -r /usr/lib/python3.13/. "$stage/usr/lib/python3.13/"
rm -rf "$stage"/usr/lib/python3.13/{test,idlelib,ensurepip,config-*,pydoc_data,unittest,lib2to3}
find "$stage/usr/lib/python3.13" -name __pycache__ -prune -exec rm -rf {} +
LD_LIBRARY_PATH=$debs/root/$lib ldd "$stage"/usr/bin/{gdb,perf,python3} "$stage"/usr/lib/python3.13/lib-dynload/*.so |
	awk '$3 ~ /^\// { print $3 }' | sort -u | while read -r file; do
	cp -L "$file" "$stage/$lib/"
done
