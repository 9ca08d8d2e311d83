# SPDX-License-Identifier: GPL-2.0
# uses: console/bedconsole.c console/Kbuild
mkdir -p "$stage/lib"
cp -a "$3/install/lib/modules" "$stage/lib/"
rm -f "$stage"/lib/modules/*/build
# A copy: the build leaves its files beside the source.
cp -r /burrow/scripts/bed/console /tmp/console
make -C "$3" M=/tmp/console LLVM=1 modules
cp /tmp/console/bedconsole.ko "$stage/lib/modules/"
