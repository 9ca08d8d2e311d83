// SPDX-License-Identifier: GPL-2.0
/*
 * kvm.ko: the parameters that outside programs look for under /sys/module/kvm/parameters. The upstream
 * selftests skip themselves where force_emulation_prefix is missing there, VMMs read tdp_mmu and
 * others. A module is the only owner that the kernel gives such a folder, hence this one; kvm-intel.ko
 * holds the hypervisor and uses it. Each parameter tells the truth about Burrow, and cannot be changed
 * where Burrow has no choice.
 */
#include <linux/export.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include "params.h"

bool burrow_param_ignore_msrs;
EXPORT_SYMBOL_GPL(burrow_param_ignore_msrs);
module_param_named(ignore_msrs, burrow_param_ignore_msrs, bool, 0644);
MODULE_PARM_DESC(ignore_msrs, "read 0 from and ignore writes to unknown MSRs");

bool burrow_param_report_ignored_msrs = true;
EXPORT_SYMBOL_GPL(burrow_param_report_ignored_msrs);
module_param_named(report_ignored_msrs, burrow_param_report_ignored_msrs, bool, 0644);
MODULE_PARM_DESC(report_ignored_msrs, "say so in the log");

static int force_emulation_prefix;
module_param(force_emulation_prefix, int, 0444);
MODULE_PARM_DESC(force_emulation_prefix, "always 0: the prefix that forces emulation is not recognised");

static bool enable_pmu;
module_param(enable_pmu, bool, 0444);
MODULE_PARM_DESC(enable_pmu, "always N: guests have no performance counters");

static bool tdp_mmu = true;
module_param(tdp_mmu, bool, 0444);
MODULE_PARM_DESC(tdp_mmu, "always Y: guest memory is mapped by two-dimensional paging");

static bool eager_page_split;
module_param(eager_page_split, bool, 0444);
MODULE_PARM_DESC(eager_page_split, "always N: huge mappings are split when they are written");

MODULE_DESCRIPTION("Burrow: parameters shared by its modules");
MODULE_LICENSE("GPL");
