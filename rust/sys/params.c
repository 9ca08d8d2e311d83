// SPDX-License-Identifier: GPL-2.0
/*
 * Parameters of kvm-intel.ko, named as upstream's where they mean the same, and readable under
 * /sys/module/kvm_intel/parameters. In C because the kernel crate's parameters are not visible in
 * sysfs. The module writes back what it found: a parameter reads N where the CPU has not the
 * feature.
 */
#include <linux/moduleparam.h>
#include <linux/init.h>
#include "params.h"

bool burrow_param_nested = true;
module_param_named(nested, burrow_param_nested, bool, 0444);
MODULE_PARM_DESC(nested, "let guests be hypervisors");

bool burrow_param_ept = true;
module_param_named(ept, burrow_param_ept, bool, 0444);
MODULE_PARM_DESC(ept, "extended page tables (required)");

bool burrow_param_vpid = true;
module_param_named(vpid, burrow_param_vpid, bool, 0444);
MODULE_PARM_DESC(vpid, "virtual processor ids (required)");

bool burrow_param_unrestricted_guest = true;
module_param_named(unrestricted_guest, burrow_param_unrestricted_guest, bool, 0444);
MODULE_PARM_DESC(unrestricted_guest, "real mode and unpaged protected mode on the processor (required)");

bool burrow_param_enable_shadow_vmcs = true;
module_param_named(enable_shadow_vmcs, burrow_param_enable_shadow_vmcs, bool, 0444);
MODULE_PARM_DESC(enable_shadow_vmcs, "VMCS shadowing for nested guests");

bool burrow_param_preemption_timer = true;
module_param_named(preemption_timer, burrow_param_preemption_timer, bool, 0444);
MODULE_PARM_DESC(preemption_timer, "the VMX-preemption timer for the guest's APIC timer");

bool burrow_param_enable_apicv;
module_param_named(enable_apicv, burrow_param_enable_apicv, bool, 0444);
MODULE_PARM_DESC(enable_apicv, "APIC-register virtualization and virtual-interrupt delivery");

bool burrow_param_pml = true;
module_param_named(pml, burrow_param_pml, bool, 0444);
MODULE_PARM_DESC(pml, "page-modification logging");
