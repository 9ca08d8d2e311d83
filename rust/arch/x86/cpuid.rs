// SPDX-License-Identifier: GPL-2.0

//! CPUID: what is supported, what userspace set, what the guest reads.

use crate::{
    arch::x86::{
        cpu::Cpu,
        options::Quirk, //
    },
    host::{
        host,
        Host, //
    },
};
use burrow_core::x86::{
    cpuid::{
        guest::{
            self,
            Capabilities,
            ParavirtRule,
            Runtime, //
        },
        leaves,
        lookup::{
            self,
            Directory,
            Hidden,
            Table, //
        },
        supported::{
            self,
            Emulated,
            Support, //
        },
        xstate::Components,
        Entry,
        Regs, //
    },
    msr::soft::{
        misc_enable,
        Soft, //
    },
    regs::write::Limits, //
};
use burrow_sys::{
    uapi::{
        kvm_cpuid_entry2,
        KVM_FEATURE_CLOCKSOURCE,
        KVM_FEATURE_CLOCKSOURCE2,
        KVM_FEATURE_CLOCKSOURCE_STABLE_BIT,
        KVM_FEATURE_NOP_IO_DELAY,
        KVM_FEATURE_PV_EOI,
        KVM_FEATURE_PV_SCHED_YIELD,
        KVM_FEATURE_PV_SEND_IPI,
        KVM_FEATURE_PV_TLB_FLUSH,
        KVM_FEATURE_PV_UNHALT,
        KVM_FEATURE_STEAL_TIME, //
    },
    x86::insn, //
};
use kernel::prelude::*;

/// The paravirtual features that work: `CPUID.40000001H:EAX`. The clock by its old and new MSRs, in
/// step on all vCPUs, no need to delay after port I/O, stolen time with the TLB flushes that it allows, EOI
/// in memory, and the hypercalls that send interrupts, that wake a vCPU and that give way.
pub(crate) const PARAVIRT: u32 = 1 << KVM_FEATURE_CLOCKSOURCE
    | 1 << KVM_FEATURE_NOP_IO_DELAY
    | 1 << KVM_FEATURE_CLOCKSOURCE2
    | 1 << KVM_FEATURE_CLOCKSOURCE_STABLE_BIT
    | 1 << KVM_FEATURE_STEAL_TIME
    | 1 << KVM_FEATURE_PV_EOI
    | 1 << KVM_FEATURE_PV_UNHALT
    | 1 << KVM_FEATURE_PV_TLB_FLUSH
    | 1 << KVM_FEATURE_PV_SEND_IPI
    | 1 << KVM_FEATURE_PV_SCHED_YIELD;

/// CPUID as userspace set it, and what follows from it.
pub(crate) struct Cpuid {
    entries: KVec<Entry>,
    directory: Directory,
    /// The features and widths that the guest has.
    pub(crate) caps: Capabilities,
    /// What they make of the registers.
    pub(crate) limits: Limits,
    paravirt_rule: ParavirtRule,
    /// The paravirtual features that the guest may use.
    pub(crate) paravirt: u32,
}

impl Cpuid {
    /// Makes the state before userspace has set anything.
    pub(crate) fn new() -> Self {
        Self::of(KVec::new(), ParavirtRule::default())
    }

    fn of(entries: KVec<Entry>, paravirt_rule: ParavirtRule) -> Self {
        let support = support(host());
        let set = supported::supported(host_cpuid, &support);
        let caps = Capabilities::of(&entries, &set, support.guest_xcr0(), support.xss);
        Self {
            directory: Directory::of(&entries),
            limits: caps.limits(),
            caps,
            paravirt_rule,
            paravirt: guest::paravirt(&entries, PARAVIRT, paravirt_rule),
            entries,
        }
    }

    /// Sets whether paravirtual features need CPUID: `KVM_CAP_ENFORCE_PV_FEATURE_CPUID`.
    pub(crate) fn set_paravirt_rule(&mut self, rule: ParavirtRule) {
        self.paravirt_rule = rule;
        self.paravirt = guest::paravirt(&self.entries, PARAVIRT, rule);
    }

    /// Returns the entries.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

fn host_cpuid(leaf: u32, subleaf: u32) -> Regs {
    let r = insn::cpuid(leaf, subleaf);
    Regs {
        eax: r.eax,
        ebx: r.ebx,
        ecx: r.ecx,
        edx: r.edx,
    }
}

fn support(host: &Host) -> Support {
    let proc2 = host.ctls.initial.proc2;
    Support {
        xcr0: host.xcr0,
        xss: 0,
        xsaves: proc2.xsaves(),
        invpcid: proc2.invpcid(),
        rdtscp: proc2.rdtscp(),
        pku: burrow_sys::x86::cpu::has(burrow_sys::uapi::X86_FEATURE_OSPKE),
        spec_ctrl: host.spec_ctrl,
        x2apic: true,
        tsc_deadline: true,
        invariant_tsc: burrow_sys::x86::cpu::has(burrow_sys::uapi::X86_FEATURE_CONSTANT_TSC)
            && burrow_sys::x86::cpu::has(burrow_sys::uapi::X86_FEATURE_NONSTOP_TSC),
        ept_4_level: true,
        nested: burrow_sys::params::nested(),
        paravirt: PARAVIRT,
        ..Support::default()
    }
}

fn to_uapi(entry: &Entry) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function: entry.function,
        index: entry.index,
        flags: entry.flags,
        eax: entry.regs.eax,
        ebx: entry.regs.ebx,
        ecx: entry.regs.ecx,
        edx: entry.regs.edx,
        padding: [0; 3],
    }
}

fn from_uapi(entry: &kvm_cpuid_entry2) -> Entry {
    Entry {
        function: entry.function,
        index: entry.index,
        flags: entry.flags,
        regs: Regs {
            eax: entry.eax,
            ebx: entry.ebx,
            ecx: entry.ecx,
            edx: entry.edx,
        },
    }
}

/// Returns the entries of `KVM_GET_SUPPORTED_CPUID`.
///
/// # Errors
///
/// `ENOMEM` when there is no memory.
pub(crate) fn supported() -> Result<KVec<kvm_cpuid_entry2>> {
    let mut entries = KVec::new();
    leaves::entries(host_cpuid, &support(host()), |entry| {
        entries.push(to_uapi(&entry), GFP_KERNEL)
    })?;
    Ok(entries)
}

/// Returns the XCR0 with everything that guests can have.
pub(crate) fn guest_xcr0() -> u64 {
    support(host()).guest_xcr0()
}

/// Returns the entries of `KVM_GET_EMULATED_CPUID`.
///
/// # Errors
///
/// `ENOMEM` when there is no memory.
pub(crate) fn emulated() -> Result<KVec<kvm_cpuid_entry2>> {
    let mut entries = KVec::new();
    for entry in supported::emulated(Emulated {
        movbe: true,
        rdpid: false,
    }) {
        entries.push(to_uapi(&entry), GFP_KERNEL)?;
    }
    Ok(entries)
}

/// Returns `entries` in the layout of the ABI.
///
/// # Errors
///
/// `ENOMEM` when there is no memory.
pub(crate) fn to_uapi_vec(entries: &[Entry]) -> Result<KVec<kvm_cpuid_entry2>> {
    let mut out = KVec::with_capacity(entries.len(), GFP_KERNEL)?;
    for entry in entries {
        out.push(to_uapi(entry), GFP_KERNEL)?;
    }
    Ok(out)
}

impl Cpu<'_> {
    /// Answers CPUID for the guest.
    pub(crate) fn cpuid(&self, leaf: u32, subleaf: u32) -> Regs {
        let cpuid = &self.arch.cpuid;
        let table = Table {
            entries: &cpuid.entries,
            directory: &cpuid.directory,
        };
        lookup::cpuid(table, leaf, subleaf, Hidden::default())
    }

    /// Replaces CPUID.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a table that cannot be, or another one after the vCPU has run.
    pub(crate) fn set_cpuid(&mut self, raw: &[kvm_cpuid_entry2]) -> Result {
        let mut entries = KVec::with_capacity(raw.len(), GFP_KERNEL_ACCOUNT)?;
        for entry in raw {
            entries.push(from_uapi(entry), GFP_KERNEL_ACCOUNT)?;
        }
        guest::check(&entries).map_err(|_| EINVAL)?;
        self.update_entries(&mut entries);
        if self.arch.has_run {
            return if entries[..] == self.arch.cpuid.entries[..] {
                Ok(())
            } else {
                Err(EINVAL)
            };
        }
        self.arch.cpuid = Cpuid::of(entries, self.arch.cpuid.paravirt_rule);
        self.msr_caps = None;
        // What the guest may change in CR4 without an exit depends on CPUID.
        let cr4 = self.cr4();
        self.store_cr4(cr4);
        self.follow_cpuid_controls();
        self.vmx_caps_follow_cpuid();
        self.lapic_follows_cpuid();
        Ok(())
    }

    /// Turns instructions on that need a VMX control, where CPUID offers them.
    fn follow_cpuid_controls(&mut self) {
        use burrow_core::x86::{
            cpuid::feature,
            vmx::field::SECONDARY_VM_EXEC_CONTROL, //
        };
        let caps = &self.arch.cpuid.caps;
        let initial = host().ctls.initial.proc2;
        let proc2 = self
            .arch
            .ctls
            .proc2
            .with_rdtscp(
                initial.rdtscp() && (caps.has(feature::RDTSCP) || caps.has(feature::RDPID)),
            )
            .with_invpcid(initial.invpcid() && caps.has(feature::INVPCID))
            .with_xsaves(initial.xsaves() && caps.has(feature::XSAVES));
        self.arch.ctls.proc2 = proc2;
        self.vmcs().set(SECONDARY_VM_EXEC_CONTROL, proc2.0);
    }

    /// Brings the bits of CPUID that follow registers up to date.
    pub(crate) fn cpuid_follows_registers(&mut self) {
        let mut entries = core::mem::take(&mut self.arch.cpuid.entries);
        self.update_entries(&mut entries);
        self.arch.cpuid.entries = entries;
    }

    /// Returns IA32_MISC_ENABLE.MWAIT where CPUID follows it.
    fn followed_mwait(&self) -> Option<bool> {
        if self.vcpu.vm.options.has_quirk(Quirk::MiscEnableNoMwait) {
            return None;
        }
        Some(self.arch.soft_msrs.get(Soft::MiscEnable) & misc_enable::MWAIT != 0)
    }

    fn update_entries(&self, entries: &mut [Entry]) {
        let runtime = Runtime {
            cr4: self.cr4(),
            apic_enabled: self.is_apic_enabled(),
            mwait: self.followed_mwait(),
            xcr0: self.arch.extended.xcr0,
            xss: self.arch.extended.xss,
        };
        guest::update(entries, &runtime, &Components::collect(host_cpuid));
    }
}
