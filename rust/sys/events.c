// SPDX-License-Identifier: GPL-2.0
/*
 * The tracepoints' definitions, and one function around each. See events.h.
 */
#define CREATE_TRACE_POINTS
#include "events.h"

#define CALL(name, proto, args) void burrow_trace_##name proto { trace_##name args; }

CALL(kvm_entry, (u32 vcpu_id, u64 rip, bool immediate_exit, u32 intr_info, u32 error_code),
     (vcpu_id, rip, immediate_exit, intr_info, error_code))
CALL(kvm_exit, (const struct burrow_trace_exit *exit), (exit))
CALL(kvm_userspace_exit, (u32 reason, int errno), (reason, errno))
CALL(kvm_pio, (u32 rw, u32 port, u32 size, u32 count, u32 val), (rw, port, size, count, val))
CALL(kvm_mmio, (u32 type, u32 len, u64 gpa, u64 val), (type, len, gpa, val))
CALL(kvm_fast_mmio, (u64 gpa), (gpa))
CALL(kvm_inj_virq, (u32 vector, bool soft, bool reinjected), (vector, soft, reinjected))
CALL(kvm_inj_exception, (u8 exception, bool has_error, u32 error_code, bool reinjected),
     (exception, has_error, error_code, reinjected))
CALL(kvm_hypercall, (u64 nr, u64 a0, u64 a1, u64 a2, u64 a3), (nr, a0, a1, a2, a3))
CALL(kvm_cpuid, (const struct burrow_trace_cpuid *cpuid), (cpuid))
CALL(kvm_msr, (u32 write, u32 ecx, u64 data, bool exception), (write, ecx, data, exception))
CALL(kvm_cr, (u32 rw, u32 cr, u64 val), (rw, cr, val))
CALL(kvm_page_fault, (u32 vcpu_id, u64 guest_rip, u64 fault_address, u64 error_code),
     (vcpu_id, guest_rip, fault_address, error_code))
CALL(kvm_set_irq, (u32 gsi, int level, int irq_source_id), (gsi, level, irq_source_id))
CALL(kvm_msi_set_irq, (u64 address, u64 data), (address, data))
