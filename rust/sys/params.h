/* SPDX-License-Identifier: GPL-2.0 */
/* The parameters of kvm-intel.ko; see params.c. */
#ifndef BURROW_PARAMS_H
#define BURROW_PARAMS_H
#include <linux/types.h>

extern bool burrow_param_nested;
extern bool burrow_param_ept;
extern bool burrow_param_vpid;
extern bool burrow_param_unrestricted_guest;
extern bool burrow_param_enable_shadow_vmcs;
extern bool burrow_param_preemption_timer;
extern bool burrow_param_enable_apicv;
extern bool burrow_param_pml;

/* Those of kvm.ko that can change at any time; see kvm_params.c. */
extern bool burrow_param_ignore_msrs;
extern bool burrow_param_report_ignored_msrs;
#endif
