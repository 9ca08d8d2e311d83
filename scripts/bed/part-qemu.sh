# SPDX-License-Identifier: GPL-2.0
lib=usr/lib/x86_64-linux-gnu
mkdir -p "$stage/usr/bin" "$stage/$lib" "$stage/usr/share/qemu"
cp /usr/bin/qemu-system-x86_64 "$stage/usr/bin/"
ldd /usr/bin/qemu-system-x86_64 | awk '$3 ~ /^\// { print $3 }' | while read -r file; do
	cp -L "$file" "$stage/$lib/"
done
for rom in bios-256k.bin kvmvapic.bin linuxboot_dma.bin multiboot_dma.bin pvh.bin bios-microvm.bin vgabios-stdvga.bin; do
	cp -L "$(ls /usr/share/{qemu,seabios}/"$rom" 2>/dev/null | head -n 1)" "$stage/usr/share/qemu/"
done
