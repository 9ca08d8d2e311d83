// SPDX-License-Identifier: GPL-2.0
/*
 * C that Rust cannot call. See shims.h.
 */
#include <linux/context_tracking.h>
#include <linux/cpu.h>
#include <linux/entry-virt.h>
#include <linux/hw_breakpoint.h>
#include <linux/kvm_host.h>
#include <linux/mutex.h>
#include <linux/preempt.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/smp.h>
#include <linux/timekeeping.h>
#include <trace/events/ipi.h>
#include <asm/cpu_entry_area.h>
#include <asm/debugreg.h>
#include <asm/desc.h>
#include <asm/fpu/api.h>
#include <asm/fpu/xcr.h>
#include <asm/gsseg.h>
#include <asm/mce.h>
#include <asm/mmu_context.h>
#include <asm/msr.h>
#include <asm/pkru.h>
#include <asm/segment.h>
#include <asm/special_insns.h>
#include <asm/tsc.h>
#include <asm/virt.h>
#include <asm/vmx.h>
#include <asm/entry-common.h>
#include <asm/fred.h>

#include "shims.h"

static_assert(offsetof(struct burrow_regs, host_rsp) == BURROW_REGS_HOST_RSP);
static_assert(offsetof(struct burrow_regs, spec_ctrl) == BURROW_REGS_SPEC_CTRL);
static_assert(EXIT_REASON_EXCEPTION_NMI == 0 && EXIT_REASON_EXTERNAL_INTERRUPT == 1);

void burrow_preempt_disable(void) { preempt_disable(); }
void burrow_preempt_enable(void) { preempt_enable(); }
void burrow_irq_disable(void)
{
	/* IrqsOff does not nest: its drop turns them on. */
	lockdep_assert_irqs_enabled();
	local_irq_disable();
}
void burrow_irq_enable(void) { local_irq_enable(); }
int burrow_mutex_lock_killable(struct mutex *m) { return mutex_lock_killable(m); }
bool burrow_need_resched(void) { return need_resched(); }
void burrow_cond_resched(void) { cond_resched(); }
bool burrow_xfer_to_guest_work_pending(void)
{
	/* The variant that may be called with interrupts on, too. */
	return __xfer_to_guest_mode_work_pending();
}
int burrow_xfer_to_guest_handle_work(void) { return xfer_to_guest_mode_handle_work(); }
void burrow_switch_vcpu_barrier(void)
{
	if (static_branch_likely(&switch_vcpu_ibpb))
		indirect_branch_prediction_barrier();
}

void burrow_send_reschedule(int cpu) { smp_send_reschedule(cpu); }

void burrow_guest_timing_exit(void) { guest_timing_exit_irqoff(); }

void burrow_note_reboot(void)
{
	virt_rebooting = true;
	/* Before the interrupts that switch VMX off, after which VMX instructions fault. */
	smp_wmb();
}

unsigned int burrow_nr_online_cpus(void) { return num_online_cpus(); }

void burrow_on_each_cpu(void (*f)(void *unused)) { on_each_cpu(f, NULL, true); }

static void burrow_ack_kick(void *unused) { }

void burrow_kick_other_cpus(const struct cpumask *mask)
{
	preempt_disable();
	smp_call_function_many(mask, burrow_ack_kick, NULL, true);
	preempt_enable();
}

void burrow_preempt_notifier_init(struct preempt_notifier *n, struct preempt_ops *ops)
{
	preempt_notifier_init(n, ops);
}

void burrow_rcuwait_init(struct rcuwait *w) { rcuwait_init(w); }
void burrow_rcuwait_prepare(struct rcuwait *w) { prepare_to_rcuwait(w); }
void burrow_rcuwait_finish(struct rcuwait *w) { finish_rcuwait(w); }
void burrow_set_current_interruptible(void) { set_current_state(TASK_INTERRUPTIBLE); }

void *burrow_page_address(struct page *page) { return page_address(page); }

u64 burrow_page_to_phys(struct page *page) { return page_to_phys(page); }

#define FOR_EACH_XMM(op) \
	op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) \
	op(8) op(9) op(10) op(11) op(12) op(13) op(14) op(15)

/* The guest's state is in the registers between fpregs_lock() and fpregs_unlock(). */
static void guest_fpregs_lock(void)
{
	fpregs_lock();
	if (test_thread_flag(TIF_NEED_FPU_LOAD))
		switch_fpu_return();
}

void burrow_read_xmm(int index, void *to)
{
	guest_fpregs_lock();
	switch (index) {
#define READ_XMM(n) case n: asm("movdqu %%xmm" #n ", %0" : "=m" (*(char (*)[16])to)); break;
	FOR_EACH_XMM(READ_XMM)
	}
	fpregs_unlock();
}

void burrow_write_xmm(int index, const void *from)
{
	guest_fpregs_lock();
	switch (index) {
#define WRITE_XMM(n) case n: asm volatile("movdqu %0, %%xmm" #n : : "m" (*(const char (*)[16])from)); break;
	FOR_EACH_XMM(WRITE_XMM)
	}
	fpregs_unlock();
}

u32 burrow_rdpkru(void) { return read_pkru(); }
void burrow_wrpkru(u32 pkru) { write_pkru(pkru); }

u64 burrow_host_xcr0(void)
{
	return boot_cpu_has(X86_FEATURE_OSXSAVE) ? xgetbv(XCR_XFEATURE_ENABLED_MASK) : 0;
}

bool burrow_cpu_has(unsigned int feature) { return boot_cpu_has(feature); }
int burrow_rdmsr_safe(u32 msr, u64 *val) { return rdmsrq_safe(msr, val); }
int burrow_wrmsr_safe(u32 msr, u64 val) { return wrmsrq_safe(msr, val); }

u64 burrow_host_efer(void)
{
	u64 efer;

	rdmsrq(MSR_EFER, efer);
	return efer;
}

u32 burrow_tsc_khz(void) { return tsc_khz; }
bool burrow_is_tsc_stable(void) { return !check_tsc_unstable(); }
u64 burrow_ktime_boot_ns(void) { return ktime_get_boottime_ns(); }
u64 burrow_ktime_ns(void) { return ktime_get_ns(); }
u64 burrow_ktime_real_ns(void) { return ktime_get_real_ns(); }

/* KVM's Kconfig selects it. */
static_assert(IS_ENABLED(CONFIG_SCHED_INFO));
u64 burrow_run_delay_ns(void) { return current->sched_info.run_delay; }

u64 burrow_host_gdt_base(void) { return (u64)get_current_gdt_ro(); }

u64 burrow_host_idt_base(void)
{
	struct desc_ptr dt;

	store_idt(&dt);
	return dt.address;
}

u64 burrow_host_tr_base(int cpu) { return (u64)&get_cpu_entry_area(cpu)->tss.x86_tss; }
u64 burrow_host_gs_base(void) { return cpu_kernelmode_gs_base(smp_processor_id()); }
u64 burrow_host_sysenter_esp(int cpu) { return (u64)(cpu_entry_stack(cpu) + 1); }
u64 burrow_host_cr0(void) { return read_cr0(); }
u16 burrow_host_cs(void) { return __KERNEL_CS; }
u16 burrow_host_ss(void) { return __KERNEL_DS; }
u16 burrow_host_tr(void) { return GDT_ENTRY_TSS * 8; }

void burrow_save_host_segs(struct burrow_host_segs *s)
{
	savesegment(ds, s->ds_sel);
	savesegment(es, s->es_sel);
	current_save_fsgs();
	s->fs_sel = current->thread.fsindex;
	s->gs_sel = current->thread.gsindex;
	s->fs_base = current->thread.fsbase;
	s->gs_base = current->thread.gsbase;
	store_ldt(s->ldt_sel);
}

void burrow_restore_host_segs(const struct burrow_host_segs *s)
{
	if (s->ldt_sel || (s->gs_sel & 7)) {
		if (s->ldt_sel)
			asm volatile("lldt %0" : : "rm" (s->ldt_sel));
		load_gs_index(s->gs_sel);
	}
	if (s->fs_sel & 7)
		loadsegment(fs, s->fs_sel);
	if (s->ds_sel | s->es_sel) {
		loadsegment(ds, s->ds_sel);
		loadsegment(es, s->es_sel);
	}
	invalidate_tss_limit();
	wrmsrq(MSR_KERNEL_GS_BASE, s->gs_base);
	load_fixmap_gdt(raw_smp_processor_id());
}


void burrow_load_guest_dr(const u64 dr[4], u64 dr6)
{
	set_debugreg(DR7_FIXED_1, 7);
	set_debugreg(dr[0], 0);
	set_debugreg(dr[1], 1);
	set_debugreg(dr[2], 2);
	set_debugreg(dr[3], 3);
	set_debugreg(dr6, 6);
}

u64 burrow_read_dr6(void)
{
	unsigned long v;

	get_debugreg(v, 6);
	set_debugreg(DR6_RESERVED, 6);
	return v;
}

void burrow_begin_visit(struct burrow_host_state *host)
{
	host->cr3 = __get_current_cr3_fast();
	host->cr4 = cr4_read_shadow();
	fpregs_assert_state_consistent();
	if (test_thread_flag(TIF_NEED_FPU_LOAD))
		switch_fpu_return();
	host->has_breakpoints = hw_breakpoint_active();
	if (unlikely(host->has_breakpoints))
		set_debugreg(DR7_FIXED_1, 7);
	host->debugctl = get_debugctlmsr();
	guest_timing_enter_irqoff();
}

void burrow_end_visit(const struct burrow_host_state *host)
{
	/* VMSCAPE: user space must not run on what the guest taught the branch predictor. */
	if (cpu_feature_enabled(X86_FEATURE_IBPB_EXIT_TO_USER))
		this_cpu_write(x86_ibpb_exit_to_user, true);
	if (host->debugctl)
		update_debugctlmsr(host->debugctl);
	if (unlikely(host->has_breakpoints))
		hw_breakpoint_restore();
}

void burrow_forward_irq(u32 vector) { x86_entry_from_kvm(EVENT_TYPE_EXTINT, vector); }

void burrow_machine_check(void)
{
#ifdef CONFIG_X86_MCE
	/* Count it as one in user mode, whatever the guest was at: the kernel itself goes on. */
	struct pt_regs regs = { .cs = __USER_CS, .flags = X86_EFLAGS_IF };

	do_machine_check(&regs);
#endif
}

static __always_inline u32 read_vmcs(unsigned long field)
{
	unsigned long value;

	asm volatile("vmread %1, %0" : "=r" (value) : "r" (field) : "cc");
	return value;
}

/*
 * The guest is a quiescent state for RCU, as user mode is. Where RCU does not see that by itself, it is
 * told, which costs more than many an exit takes: so not twice in one tick. A grace period then ends at
 * most a tick later than it could.
 */
static __always_inline void note_quiescent_state(struct burrow_regs *regs)
{
	unsigned long now = jiffies;

	if (regs->quiet_at == now)
		return;
	regs->quiet_at = now;
	instrumentation_begin();
	rcu_virt_note_context_switch();
	instrumentation_end();
}

/* What guest_state_enter_irqoff() does, but for note_quiescent_state(). */
static __always_inline void enter_guest_state(struct burrow_regs *regs)
{
	instrumentation_begin();
	trace_hardirqs_on_prepare();
	lockdep_hardirqs_on_prepare();
	instrumentation_end();
	if (!context_tracking_guest_enter())
		note_quiescent_state(regs);
	lockdep_hardirqs_on(CALLER_ADDR0);
}

/* What guest_state_exit_irqoff() does, but for note_quiescent_state(). */
static __always_inline void exit_guest_state(struct burrow_regs *regs)
{
	lockdep_hardirqs_off(CALLER_ADDR0);
	if (!context_tracking_guest_exit())
		note_quiescent_state(regs);
	instrumentation_begin();
	trace_hardirqs_off_finish();
	instrumentation_end();
}

/*
 * The part of an entry in which the kernel counts the CPU as running a guest: RCU does not watch,
 * nothing may be traced. An NMI that ended the guest is handed to the host before that ends,
 * because NMIs are blocked from the VM exit until the host's handler returns with IRET.
 *
 * Returns the exit reason, with the interruption information of exception, NMI and external-interrupt
 * exits in the upper half, or BURROW_ENTER_FAILED.
 */
noinstr u64 burrow_enter_guest(struct burrow_regs *regs, unsigned long flags)
{
	u32 reason, intr_info = 0;
	int failed;

	enter_guest_state(regs);

	if (cpu_feature_enabled(X86_FEATURE_FLUSH_L1D) && boot_cpu_has_bug(X86_BUG_L1TF) &&
	    l1tf_mitigation != L1TF_MITIGATION_OFF)
		native_wrmsrq(MSR_IA32_FLUSH_CMD, L1D_FLUSH);

	if (regs->cr2 != native_read_cr2())
		native_write_cr2(regs->cr2);

	failed = burrow_vmenter(regs, flags);
	regs->cr2 = native_read_cr2();
	if (unlikely(failed)) {
		exit_guest_state(regs);
		return BURROW_ENTER_FAILED;
	}

	reason = read_vmcs(VM_EXIT_REASON);
	if (unlikely(reason <= EXIT_REASON_EXTERNAL_INTERRUPT))
		intr_info = read_vmcs(VM_EXIT_INTR_INFO);
	if (reason == EXIT_REASON_EXCEPTION_NMI &&
	    (intr_info & (INTR_INFO_INTR_TYPE_MASK | INTR_INFO_VALID_MASK)) ==
	    (INTR_TYPE_NMI_INTR | INTR_INFO_VALID_MASK))
		x86_entry_from_kvm(EVENT_TYPE_NMI, NMI_VECTOR);

	exit_guest_state(regs);
	return (u64)intr_info << 32 | reason;
}
