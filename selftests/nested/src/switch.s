# SPDX-License-Identifier: GPL-2.0
# What cannot be written in Rust: the stubs of the IDT, attempts that may fault, and the switch to a guest.

	.text
	.code64

# Interrupt stubs, 16 bytes each: the vector, and an error code of 0 where the CPU pushes none.
	.balign 16
	.global exception_stubs
exception_stubs:
	.set vector, 0
	.rept 256
	.balign 16
	.if vector != 8 && (vector < 10 || vector > 14) && vector != 17 && vector != 21
	push	0
	.endif
	push	vector
	jmp	exception_common
	.set vector, vector + 1
	.endr

# On the stack: vector, error code, RIP, CS, RFLAGS, RSP, SS.
exception_common:
	cmp	dword ptr [rsp], 32
	jae	1f
	cmp	dword ptr [rsp], 2
	je	1f
	push	rax
	mov	rax, [rip + trial_active]
	test	rax, rax
	jz	2f
	# An attempt faulted: note what happened and go to its end.
	push	rdx
	mov	rdx, [rsp + 0x10]
	mov	[rax + 0x90], rdx	# vector
	mov	rdx, [rsp + 0x18]
	mov	[rax + 0x98], rdx	# error code
	mov	rdx, [rsp + 0x20]
	mov	[rax + 0xa8], rdx	# RIP
	mov	rdx, [rsp + 0x30]
	mov	[rax + 0x80], rdx	# RFLAGS
	mov	rdx, cr2
	mov	[rax + 0xa0], rdx
	mov	rdx, dr6
	mov	[rax + 0xb0], rdx
	mov	edx, 0x10
	mov	ds, edx
	mov	es, edx
	mov	ss, edx
	mov	rsp, [rip + trial_stack]
	jmp	trial_end
2:	pop	rax
	mov	rdi, rsp
	and	rsp, -16
	call	unexpected_exception
	ud2
# Interrupts and NMIs are counted.
1:	push	rax
	push	rcx
	push	rdx
	mov	rax, [rsp + 0x18]
	lea	rcx, [rip + interrupt_counts]
	inc	qword ptr [rcx + rax * 8]
	cmp	eax, 2
	je	3f
	xor	eax, eax		# end of interrupt, in x2APIC mode
	xor	edx, edx
	mov	ecx, 0x80b
	wrmsr
3:	pop	rdx
	pop	rcx
	pop	rax
	add	rsp, 16
	iretq

# trial_run(*Trial): load registers and RFLAGS, call the code, store them; or, if it faults, store how.
	.global trial_run
trial_run:
	push	rbx
	push	rbp
	push	r12
	push	r13
	push	r14
	push	r15
	mov	[rip + trial_active], rdi
	mov	[rip + trial_stack], rsp
	mov	rax, rdi
	push	qword ptr [rax + 0x80]
	mov	rcx, [rax + 0x08]
	mov	rdx, [rax + 0x10]
	mov	rbx, [rax + 0x18]
	mov	rbp, [rax + 0x28]
	mov	rsi, [rax + 0x30]
	mov	rdi, [rax + 0x38]
	mov	r8, [rax + 0x40]
	mov	r9, [rax + 0x48]
	mov	r10, [rax + 0x50]
	mov	r11, [rax + 0x58]
	mov	r12, [rax + 0x88]
	mov	rax, [rax]
	popfq
	call	r12
	pushfq
	push	rax
	mov	rax, [rip + trial_active]
	mov	[rax + 0x08], rcx
	mov	[rax + 0x10], rdx
	mov	[rax + 0x18], rbx
	mov	[rax + 0x30], rsi
	mov	[rax + 0x38], rdi
	pop	rcx
	mov	[rax], rcx
	pop	rcx
	mov	[rax + 0x80], rcx
trial_end:
	mov	qword ptr [rip + trial_active], 0
	push	2
	popfq
	pop	r15
	pop	r14
	pop	r13
	pop	r12
	pop	rbp
	pop	rbx
	ret

# enter_guest(launch: bool) -> RFLAGS: run the guest with the registers in guest_registers. After a VM exit
# the answer is 0; RFLAGS are those of an instruction that failed.
	.global enter_guest
enter_guest:
	push	rbx
	push	rbp
	push	r12
	push	r13
	push	r14
	push	r15
	mov	[rip + host_stack], rsp
	test	edi, edi
	lea	r15, [rip + guest_registers]
	mov	rax, [r15]
	mov	rcx, [r15 + 0x08]
	mov	rdx, [r15 + 0x10]
	mov	rbx, [r15 + 0x18]
	mov	rbp, [r15 + 0x28]
	mov	rsi, [r15 + 0x30]
	mov	rdi, [r15 + 0x38]
	mov	r8, [r15 + 0x40]
	mov	r9, [r15 + 0x48]
	mov	r10, [r15 + 0x50]
	mov	r11, [r15 + 0x58]
	mov	r12, [r15 + 0x60]
	mov	r13, [r15 + 0x68]
	mov	r14, [r15 + 0x70]
	mov	r15, [r15 + 0x78]
	jz	1f
	.global launch_instruction
launch_instruction:
	vmlaunch
	jmp	2f
1:	vmresume
2:	pushfq
	pop	rax
	jmp	3f
	.global host_entry
host_entry:
	push	r15
	lea	r15, [rip + guest_registers]
	mov	[r15], rax
	mov	[r15 + 0x08], rcx
	mov	[r15 + 0x10], rdx
	mov	[r15 + 0x18], rbx
	mov	[r15 + 0x28], rbp
	mov	[r15 + 0x30], rsi
	mov	[r15 + 0x38], rdi
	mov	[r15 + 0x40], r8
	mov	[r15 + 0x48], r9
	mov	[r15 + 0x50], r10
	mov	[r15 + 0x58], r11
	mov	[r15 + 0x60], r12
	mov	[r15 + 0x68], r13
	mov	[r15 + 0x70], r14
	pop	rax
	mov	[r15 + 0x78], rax
	xor	eax, eax
3:	mov	rsp, [rip + host_stack]
	pop	r15
	pop	r14
	pop	r13
	pop	r12
	pop	rbp
	pop	rbx
	ret

	.data
	.balign 8
	.global trial_active, interrupt_counts, guest_registers
trial_active:	.quad 0
trial_stack:	.quad 0
host_stack:	.quad 0
guest_registers:	.fill 16, 8, 0
interrupt_counts:	.fill 256, 8, 0
	.section .bss
	.balign 4096
	.fill 16384
	.global exit_stack_end
exit_stack_end:
	.text

# The guest's handlers, 16 bytes each: push the vector and tell.
	.balign 16
	.global guest_stubs
guest_stubs:
	.set vector, 0
	.rept 256
	.balign 16
	.byte 0x68			# push, 32 bits
	.long vector
	.byte 0xe9			# jmp, 32 bits
	.long guest_event - . - 4
	.set vector, vector + 1
	.endr
# In 32-bit mode this is the same code.
guest_event:
	.byte 0xbf			# mov edi, 0x78
	.long 0x78
	vmcall
