/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What bindgen reads: KVM's userspace ABI, our shims, and the kernel functions that the kernel crate's
 * own bindings leave out. Constants that bindgen cannot evaluate are re-stated as typed ones.
 */
#include <linux/kvm.h>
#include <linux/kvm_para.h>
#include <linux/anon_inodes.h>
#include <linux/user-return-notifier.h>
#include <linux/preempt.h>
#include <linux/eventfd.h>
#include <linux/fs.h>
#include <linux/smp.h>
#include <linux/cpuhotplug.h>
#include <linux/syscore_ops.h>
#include <asm/virt.h>
#include <asm/fpu/api.h>
#include <asm/cpufeatures.h>
#include <asm/msr-index.h>

#include "shims.h"
#include "mem_shims.h"
#include "eventfd_shims.h"
#include "events.h"
#include "params.h"

#define IOCTL(name) const unsigned int BURROW_CONST_##name = name;
#include "ioctls.h"
#undef IOCTL

const unsigned int BURROW_CONST_KVM_X2APIC_API_USE_32BIT_IDS = KVM_X2APIC_API_USE_32BIT_IDS;
const unsigned int BURROW_CONST_KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK =
	KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;
const unsigned int BURROW_CONST_KVM_X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST =
	KVM_X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST;
const unsigned int BURROW_CONST_KVM_X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST =
	KVM_X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST;
const fmode_t BURROW_CONST_FMODE_PREAD = FMODE_PREAD;
