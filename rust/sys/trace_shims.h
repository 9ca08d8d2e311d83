/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The calls of the tracepoints of events.h, for trace.rs: they are inline functions.
 */
#ifndef BURROW_TRACE_SHIMS_H
#define BURROW_TRACE_SHIMS_H

#include <linux/types.h>

/* KVM_ISA_VMX: which exit reasons those of kvm_exit are. */
#define BURROW_ISA_VMX 1

/**
 * struct burrow_trace_exit - the fields of kvm_exit
 * @exit_reason: the exit reason, all 32 bits
 * @vcpu_id: the vCPU
 * @guest_rip: RIP
 * @info1: the exit qualification
 * @info2: the IDT-vectoring information
 * @requests: the vCPU's pending requests
 * @intr_info: the VM-exit interruption information
 * @error_code: the VM-exit interruption error code
 */
struct burrow_trace_exit {
	u32 exit_reason;
	u32 vcpu_id;
	u64 guest_rip;
	u64 info1;
	u64 info2;
	u64 requests;
	u32 intr_info;
	u32 error_code;
};

/**
 * struct burrow_trace_cpuid - the fields of kvm_cpuid
 * @function: EAX
 * @index: ECX
 * @rax: answer
 * @rbx: answer
 * @rcx: answer
 * @rdx: answer
 * @found: there is such a leaf
 * @used_max_basic: there is not, and the highest basic one answered
 */
struct burrow_trace_cpuid {
	u32 function;
	u32 index;
	u64 rax;
	u64 rbx;
	u64 rcx;
	u64 rdx;
	bool found;
	bool used_max_basic;
};

void burrow_trace_kvm_entry(u32 vcpu_id, u64 rip, bool immediate_exit, u32 intr_info,
			    u32 error_code);
void burrow_trace_kvm_exit(const struct burrow_trace_exit *exit);
void burrow_trace_kvm_userspace_exit(u32 reason, int errno);
void burrow_trace_kvm_pio(u32 rw, u32 port, u32 size, u32 count, u32 val);
void burrow_trace_kvm_mmio(u32 type, u32 len, u64 gpa, u64 val);
void burrow_trace_kvm_fast_mmio(u64 gpa);
void burrow_trace_kvm_inj_virq(u32 vector, bool soft, bool reinjected);
void burrow_trace_kvm_inj_exception(u8 exception, bool has_error, u32 error_code, bool reinjected);
void burrow_trace_kvm_hypercall(u64 nr, u64 a0, u64 a1, u64 a2, u64 a3);
void burrow_trace_kvm_cpuid(const struct burrow_trace_cpuid *cpuid);
void burrow_trace_kvm_msr(u32 write, u32 ecx, u64 data, bool exception);
void burrow_trace_kvm_cr(u32 rw, u32 cr, u64 val);
void burrow_trace_kvm_page_fault(u32 vcpu_id, u64 guest_rip, u64 fault_address, u64 error_code);
void burrow_trace_kvm_set_irq(u32 gsi, int level, int irq_source_id);
void burrow_trace_kvm_msi_set_irq(u64 address, u64 data);

#endif
