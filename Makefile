# SPDX-License-Identifier: GPL-2.0
# What a person calls. The module's own build is in Kbuild, which the kernel's build system reads; the
# work is in scripts/.

# What the tools in scripts/ are told by their callers is not for their own makes.
unexport KDIR
MAKEFLAGS += --no-print-directory

.PHONY: module run test test-debug check bench clean help

module:
	@scripts/module $(if $(KDIR),--kdir $(KDIR))

run:
	@scripts/run

test:
	@scripts/test

test-debug:
	@scripts/test --debug

check:
	@scripts/check

bench:
	@scripts/bench

clean:
	rm -rf build rust/core/target

help:
	@echo 'make              build kvm-intel.ko and kvm.ko into build/module, for the kernel of the test bed'
	@echo 'make KDIR=DIR     the same into build/kdir, for the kernel tree DIR, with your own tools'
	@echo 'make run          boot the test bed, load Burrow, run guests on it'
	@echo 'make test         all tests'
	@echo 'make test-debug   the tests in the bed again, on a kernel with lockdep, KASAN, kmemleak'
	@echo 'make check        format, lints, layers, safety comments, documentation'
	@echo 'make bench        what VM exits and VMs cost, beside upstream KVM'
	@echo 'make clean        remove build/; the cache in ~/.cache/burrow stays'
	@echo
	@echo 'scripts/testhost --help tells how to run any command in the bed.'
