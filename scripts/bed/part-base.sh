# SPDX-License-Identifier: GPL-2.0
# uses: init
mkdir -p "$stage"/{bin,sbin,usr/bin,usr/sbin,lib,lib64,root,tmp,run,proc,sys,dev,etc,bed}
cp /bin/busybox "$stage/bin/"
for applet in $(/bin/busybox --list | grep -vx busybox); do
	ln -sf busybox "$stage/bin/$applet"
done
lib=usr/lib/x86_64-linux-gnu
mkdir -p "$stage/$lib"
ln -sfn ../usr/lib/x86_64-linux-gnu "$stage/lib/x86_64-linux-gnu"
cp -L "/$lib"/{libc.so.6,libm.so.6,libgcc_s.so.1} "$stage/$lib/"
cp -L /lib64/ld-linux-x86-64.so.2 "$stage/lib64/"
printf 'root:x:0:0:root:/root:/bin/sh\n' >"$stage/etc/passwd"
printf 'root:x:0:\n' >"$stage/etc/group"
install -m 755 /burrow/scripts/bed/init "$stage/init"
