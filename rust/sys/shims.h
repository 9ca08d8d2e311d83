/* SPDX-License-Identifier: GPL-2.0 */
/*
 * C that Rust cannot call: inline functions, macros, per-CPU variables. One line each; nothing here
 * decides anything.
 */
#ifndef BURROW_SHIMS_H
#define BURROW_SHIMS_H

#include <linux/types.h>
#include <linux/rcuwait.h>
#include "x86/vmenter.h"

struct file;
struct mutex;
struct page;
struct cpumask;
struct file_operations;
struct preempt_notifier;
struct preempt_ops;
struct user_return_notifier;

/* Context */
void burrow_preempt_disable(void);
void burrow_preempt_enable(void);
int burrow_mutex_lock_killable(struct mutex *m);
void burrow_irq_disable(void);
void burrow_irq_enable(void);
bool burrow_need_resched(void);
void burrow_cond_resched(void);
bool burrow_xfer_to_guest_work_pending(void);
int burrow_xfer_to_guest_handle_work(void);
void burrow_switch_vcpu_barrier(void);
void burrow_send_reschedule(int cpu);
void burrow_guest_timing_exit(void);
void burrow_kick_other_cpus(const struct cpumask *mask);

/* Preemption and return to user mode */
void burrow_preempt_notifier_init(struct preempt_notifier *n, struct preempt_ops *ops);

/* Blocking */
void burrow_rcuwait_init(struct rcuwait *w);
void burrow_rcuwait_prepare(struct rcuwait *w);
void burrow_rcuwait_finish(struct rcuwait *w);
void burrow_set_current_interruptible(void);

/* Memory */
void *burrow_page_address(struct page *page);
u64 burrow_page_to_phys(struct page *page);

/* FPU */
void burrow_read_xmm(int index, void *to);
void burrow_write_xmm(int index, const void *from);
u32 burrow_rdpkru(void);
void burrow_wrpkru(u32 pkru);
u64 burrow_host_xcr0(void);

/* CPU features and MSRs */
bool burrow_cpu_has(unsigned int feature);
int burrow_rdmsr_safe(u32 msr, u64 *val);
int burrow_wrmsr_safe(u32 msr, u64 val);
u64 burrow_host_efer(void);
u32 burrow_tsc_khz(void);
bool burrow_is_tsc_stable(void);
u64 burrow_ktime_boot_ns(void);
u64 burrow_ktime_ns(void);
u64 burrow_ktime_real_ns(void);
u64 burrow_run_delay_ns(void);

/* Shutdown */
void burrow_note_reboot(void);
unsigned int burrow_nr_online_cpus(void);
void burrow_on_each_cpu(void (*f)(void *unused));

/* Host state of a VMCS */
u64 burrow_host_gdt_base(void);
u64 burrow_host_idt_base(void);
u64 burrow_host_tr_base(int cpu);
u64 burrow_host_gs_base(void);
u64 burrow_host_sysenter_esp(int cpu);
u64 burrow_host_cr0(void);
u16 burrow_host_cs(void);
u16 burrow_host_ss(void);
u16 burrow_host_tr(void);
/**
 * struct burrow_host_segs - what a return to user mode needs back after guests ran on the CPU
 */
struct burrow_host_segs {
	u16 fs_sel, gs_sel, ds_sel, es_sel, ldt_sel;
	u64 fs_base, gs_base;
};
void burrow_save_host_segs(struct burrow_host_segs *s);
void burrow_restore_host_segs(const struct burrow_host_segs *s);

/* Debug registers */
void burrow_load_guest_dr(const u64 dr[4], u64 dr6);
u64 burrow_read_dr6(void);

/* Events that ended the guest */
void burrow_forward_irq(u32 vector);
void burrow_machine_check(void);

#endif
