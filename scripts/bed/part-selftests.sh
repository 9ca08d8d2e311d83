# SPDX-License-Identifier: GPL-2.0
# Unmodified, static and stripped. The programs only, in the tree that upstream gives them.
make -C "$4" O=/tmp/headers INSTALL_HDR_PATH=/tmp/uapi headers_install
make -C "$4/tools/testing/selftests/kvm" ARCH=x86 OUTPUT=/tmp/kvm \
	KHDR_INCLUDES='-isystem /tmp/uapi/include' LDFLAGS=-static -j"$(nproc)"
mkdir -p "$stage/selftests/kvm"
cd /tmp/kvm
find . -type f -perm -u+x ! -name '*.o' ! -name '*.so' | while read -r file; do
	mkdir -p "$stage/selftests/kvm/${file%/*}"
	strip -o "$stage/selftests/kvm/$file" "$file" 2>/dev/null || cp "$file" "$stage/selftests/kvm/$file"
done
cd /
