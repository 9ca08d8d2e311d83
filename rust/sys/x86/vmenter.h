/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The register ABI of the world switch, shared by vmenter.S, shims.c and, through bindgen, Rust.
 *
 * A VM entry takes a struct burrow_regs and leaves it holding the guest's state at the VM exit.
 * The processor itself switches RSP, RIP, RFLAGS, the segment registers, CR0, CR3, CR4, DR7, EFER,
 * PAT and the SYSENTER MSRs through the VMCS; the struct carries what it does not: the other
 * general-purpose registers, CR2 and SPEC_CTRL. Floating-point state, DR0-DR3, DR6, XCR0, XSS and
 * the SYSCALL MSRs are switched outside, by Rust, less often than at each entry.
 */
#ifndef BURROW_VMENTER_H
#define BURROW_VMENTER_H

/* Offsets into struct burrow_regs; GPRs stand at 8 * their encoding in instructions. */
#define BURROW_REGS_HOST_RSP	128
#define BURROW_REGS_SPEC_CTRL	136

/* Flags of burrow_vmenter(): the VMCS is launched, use VMRESUME. */
#define BURROW_ENTER_LAUNCHED	1
/* The guest may write IA32_SPEC_CTRL without an exit: read it back. */
#define BURROW_ENTER_SPEC_CTRL	2

#ifndef __ASSEMBLER__
#include <linux/types.h>

/**
 * struct burrow_regs - guest registers that software switches
 * @gpr: RAX, RCX, RDX, RBX, RSP (unused here), RBP, RSI, RDI, R8 to R15
 * @host_rsp: the value HOST_RSP of the current VMCS holds, so that it is written only when it moves
 * @spec_ctrl: the guest's IA32_SPEC_CTRL
 * @cr2: the guest's CR2
 * @quiet_at: the tick in which RCU was last told that the guest runs, in jiffies
 */
struct burrow_regs {
	u64 gpr[16];
	u64 host_rsp;
	u64 spec_ctrl;
	u64 cr2;
	unsigned long quiet_at;
};

/* In the place of an exit reason: VMLAUNCH or VMRESUME ended in VMfail. */
#define BURROW_ENTER_FAILED	0xffffffff

/**
 * struct burrow_host_state - what stays as it is over entries between which interrupts are off
 * @cr3: CR3, for the VMCS
 * @cr4: CR4, for the VMCS
 * @debugctl: IA32_DEBUGCTL, which VM exits clear
 * @has_breakpoints: the current task has hardware breakpoints, which are disarmed meanwhile
 */
struct burrow_host_state {
	u64 cr3;
	u64 cr4;
	u64 debugctl;
	bool has_breakpoints;
};

void burrow_begin_visit(struct burrow_host_state *host);
void burrow_end_visit(const struct burrow_host_state *host);
int burrow_vmenter(struct burrow_regs *regs, unsigned long flags);
u64 burrow_enter_guest(struct burrow_regs *regs, unsigned long flags);
void burrow_vmexit(void);
#endif
#endif
