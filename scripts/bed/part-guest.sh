# SPDX-License-Identifier: GPL-2.0
# uses: guest-init part-base.sh init
. /burrow/scripts/bed/part-base.sh
guest=$stage
install -m 755 /burrow/scripts/bed/guest-init "$guest/init"
mkdir -p "$guest/lib"
cp -a "$3/install/lib/modules" "$guest/lib/"
rm -f "$guest"/lib/modules/*/build
rmdir "$guest/bed"
stage=$(mktemp -d)
mkdir "$stage/guest"
cp "$3/arch/x86/boot/bzImage" "$stage/guest/"
(cd "$guest" && find . -mindepth 1 -exec touch -hd @0 {} + && find . -mindepth 1 | LC_ALL=C sort |
	cpio --quiet -o -H newc -R 0:0 --reproducible) >"$stage/guest/initrd"
