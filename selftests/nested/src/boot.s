# SPDX-License-Identifier: GPL-2.0
# Entry from a boot loader, by the Linux boot protocol, in each of its three modes. All end in start_64 with
# RSI at something that has the address of the command line at 0x228.

	.section .setup, "ax"
	.code16
	.org 0x1f1
	.byte 1				# setup_sects
	.word 0
	.long __syssize	# syssize
	.word 0, 0, 0
	.word 0xaa55			# boot_flag
	.org 0x200
	.byte 0xeb, setup_code - 1f	# jump
1:	.ascii "HdrS"
	.word 0x020c			# version
	.long 0
	.word 0, 0
	.byte 0
	.byte 1				# loadflags: LOADED_HIGH
	.word 0
	.long 0x100000			# code32_start
	.long 0, 0, 0
	.word 0xfe00			# heap_end_ptr
	.byte 0, 0
	.long 0				# cmd_line_ptr
	.long 0x7fffffff		# initrd_addr_max
	.long 0x1000			# kernel_alignment
	.byte 0, 12
	.word 1				# xloadflags: the 64-bit entry point is there
	.long 255			# cmdline_size
	.org 0x258
	.quad 0x100000			# pref_address
	.long __bss_end - 0x100000	# init_size
	.org 0x268
setup_code:
	cli
	xor	eax, eax
	mov	ax, ds
	shl	eax, 4
	mov	esi, eax		# where setup is: RSI + 0x228 is the command line's address
	lea	edx, [eax + setup_gdt]
	mov	dword ptr [setup_gdtr + 2], edx
	lgdt	[setup_gdtr]
	mov	eax, cr0
	or	eax, 1
	mov	cr0, eax
	.byte 0x66, 0xea		# far jump to 0x08:0x100000
	.long 0x100000
	.word 0x08
	.balign 8
setup_gdt:
	.quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
setup_gdtr:
	.word 23
	.long 0

	.section .head, "ax"
	.code32
start_32:
	mov	eax, 0x10
	mov	ds, eax
	mov	es, eax
	mov	ss, eax
	mov	eax, cr4
	or	eax, 0x20		# PAE
	mov	cr4, eax
	mov	eax, offset page_tables
	mov	cr3, eax
	mov	ecx, 0xc0000080
	rdmsr
	or	eax, 0x100		# LME
	wrmsr
	mov	eax, cr0
	or	eax, 0x80000000
	mov	cr0, eax
	lgdt	[boot_gdtr]
	.byte 0xea			# far jump
	.long long_mode
	.word 0x08
	.org 0x200			# the 64-bit entry point
	.code64
	.global start_64
start_64:
	cli
	lgdt	[boot_gdtr]
	push	0x08
	lea	rax, [rip + long_mode]
	push	rax
	rex64 retf
long_mode:
	lea	rax, [rip + page_tables]
	mov	cr3, rax
	mov	eax, 0x10
	mov	ds, eax
	mov	es, eax
	mov	ss, eax
	mov	fs, eax
	mov	gs, eax
	mov	rax, 0x80000031		# PG, NE, ET, PE, and no write protection
	mov	cr0, rax
	mov	eax, 0x620		# PAE, OSFXSR, OSXMMEXCPT
	mov	cr4, rax
	lea	rdi, [rip + __bss_start]
	lea	rcx, [rip + __bss_end]
	sub	rcx, rdi
	xor	eax, eax
	cld
	rep	stosb
	lea	rsp, [rip + boot_stack_end]
	mov	edi, dword ptr [rsi + 0x228]
	xor	ebp, ebp
	call	main
2:	hlt
	jmp	2b

	.section .data
	.balign 8
boot_gdt:
	.quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
boot_gdtr:
	.word 23
	.quad boot_gdt

# All of the first 4 GiB, each address at itself, for every mode of paging.
	.balign 4096
	.global page_tables, page_tables_2m, page_tables_pae, page_tables_32
page_tables:
	.quad pdpt + 7
	.fill 511, 8, 0
pdpt:
	.quad page_tables_2m + 7, page_tables_2m + 0x1007, page_tables_2m + 0x2007, page_tables_2m + 0x3007
	.fill 508, 8, 0
page_tables_2m:
	.set page, 0
	.rept 2048
	.quad page + 0xe7		# dirty, accessed, large, user, writable, present
	.set page, page + 0x200000
	.endr
page_tables_32:
	.set page, 0
	.rept 1024
	.long page + 0xe7
	.set page, page + 0x400000
	.endr
page_tables_pae:
	.quad page_tables_2m + 1, page_tables_2m + 0x1001, page_tables_2m + 0x2001, page_tables_2m + 0x3001

	.section .bss
	.balign 4096
	.fill 65536
boot_stack_end:
