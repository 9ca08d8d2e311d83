/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The world switch. See vmenter.h for its register ABI.
 *
 * int burrow_vmenter(struct burrow_regs *regs, unsigned long flags)
 *
 * Called with interrupts off, in a noinstr section, with the VMCS current. Returns 0 after a VM
 * exit and 1 after VMfail. The stack between entry and exit:
 *
 *	 0(%rsp)  flags
 *	 8(%rsp)  regs
 *	16(%rsp)  the caller's callee-saved registers
 */
#include <linux/linkage.h>
#include <asm/asm.h>
#include <asm/msr-index.h>
#include <asm/nospec-branch.h>
#include <asm/percpu.h>
#include <asm/unwind_hints.h>
#include "vmenter.h"

#define VMCS_HOST_RSP 0x6c14

	.section .noinstr.text, "ax"

/* Each general-purpose register except RSP and RDI, with its place in burrow_regs.gpr. */
.macro for_each_gpr op:req
	\op	0, %rax
	\op	1, %rcx
	\op	2, %rdx
	\op	3, %rbx
	\op	5, %rbp
	\op	6, %rsi
	\op	8, %r8
	\op	9, %r9
	\op	10, %r10
	\op	11, %r11
	\op	12, %r12
	\op	13, %r13
	\op	14, %r14
	\op	15, %r15
.endm

.macro load_gpr n:req reg:req
	movq	8*\n(%rdi), \reg
.endm

.macro store_gpr n:req reg:req
	movq	\reg, 8*\n(%rdi)
.endm

SYM_FUNC_START(burrow_vmenter)
	pushq	%rbp
	movq	%rsp, %rbp
	pushq	%r15
	pushq	%r14
	pushq	%r13
	pushq	%r12
	pushq	%rbx
	pushq	%rdi
	pushq	%rsi

	/* The processor loads RSP from the VMCS at the exit: this very frame. */
	cmpq	%rsp, BURROW_REGS_HOST_RSP(%rdi)
	je	.Lhost_rsp_done
	movl	$VMCS_HOST_RSP, %eax
	vmwrite	%rsp, %rax
	movq	%rsp, BURROW_REGS_HOST_RSP(%rdi)
.Lhost_rsp_done:

	/* Give the guest its SPEC_CTRL where the host has the MSR and the values differ. */
	ALTERNATIVE "jmp .Lspec_ctrl_guest_done", "", X86_FEATURE_MSR_SPEC_CTRL
	movl	BURROW_REGS_SPEC_CTRL(%rdi), %eax
	cmpl	PER_CPU_VAR(x86_spec_ctrl_current), %eax
	je	.Lspec_ctrl_guest_done
	movl	$MSR_IA32_SPEC_CTRL, %ecx
	xorl	%edx, %edx
	wrmsr
.Lspec_ctrl_guest_done:

	for_each_gpr load_gpr
	load_gpr 7, %rdi

	/* From here on nothing of the host is in a register. VERW clobbers the flags. */
	ALTERNATIVE "", __stringify(VERW), X86_FEATURE_CLEAR_CPU_BUF_VM
	testb	$BURROW_ENTER_LAUNCHED, (%rsp)
	jz	.Llaunch

	/* The exit resumes at burrow_vmexit with this frame; tell the unwinder. */
	UNWIND_HINT_SAVE
.Lresume:
	vmresume
	jmp	.Lvmfail
.Llaunch:
	vmlaunch
	jmp	.Lvmfail

	_ASM_EXTABLE(.Lresume, .Lfault)
	_ASM_EXTABLE(.Llaunch, .Lfault)

/* HOST_RIP: every VM exit arrives here, with the guest's registers and the host's RSP. */
SYM_INNER_LABEL_ALIGN(burrow_vmexit, SYM_L_GLOBAL)
	UNWIND_HINT_RESTORE
	ENDBR
	pushq	%rdi
	movq	16(%rsp), %rdi
	for_each_gpr store_gpr
	popq	8*7(%rdi)
	xorl	%ebx, %ebx

.Lback:
	/* Let no value of the guest live on in a register, where speculation could use it. */
	xorl	%eax, %eax
	xorl	%ecx, %ecx
	xorl	%edx, %edx
	xorl	%ebp, %ebp
	xorl	%esi, %esi
	xorl	%edi, %edi
	xorl	%r8d, %r8d
	xorl	%r9d, %r9d
	xorl	%r10d, %r10d
	xorl	%r11d, %r11d
	xorl	%r12d, %r12d
	xorl	%r13d, %r13d
	xorl	%r14d, %r14d
	xorl	%r15d, %r15d

	/* Both must come before the first unbalanced RET. */
	FILL_RETURN_BUFFER %rcx, RSB_CLEAR_LOOPS, X86_FEATURE_RSB_VMEXIT, \
			   X86_FEATURE_RSB_VMEXIT_LITE

	ALTERNATIVE "jmp .Lspec_ctrl_host_done", "", X86_FEATURE_MSR_SPEC_CTRL
	movl	$MSR_IA32_SPEC_CTRL, %ecx
	movq	8(%rsp), %rdi
	/* Only a guest that may write the MSR itself can have changed it. */
	testb	$BURROW_ENTER_SPEC_CTRL, (%rsp)
	jz	.Lspec_ctrl_known
	rdmsr
	movl	%eax, BURROW_REGS_SPEC_CTRL(%rdi)
.Lspec_ctrl_known:
	movl	BURROW_REGS_SPEC_CTRL(%rdi), %eax
	movl	PER_CPU_VAR(x86_spec_ctrl_current), %esi
	cmpl	%esi, %eax
	/* Legacy IBRS wants the write after each exit, changed or not. */
	ALTERNATIVE "je .Lspec_ctrl_fence", "", X86_FEATURE_KERNEL_IBRS
	movl	%esi, %eax
	xorl	%edx, %edx
	wrmsr
.Lspec_ctrl_fence:
	lfence
.Lspec_ctrl_host_done:
	CLEAR_BRANCH_HISTORY_VMEXIT

	movl	%ebx, %eax
	addq	$16, %rsp
	popq	%rbx
	popq	%r12
	popq	%r13
	popq	%r14
	popq	%r15
	popq	%rbp
	RET

.Lfault:
	/* VMX was switched off under us: fine in an emergency reboot, else a bug of the host. */
	cmpb	$0, virt_rebooting(%rip)
	jne	.Lvmfail
	ud2
.Lvmfail:
	movl	$1, %ebx
	jmp	.Lback
SYM_FUNC_END(burrow_vmenter)
