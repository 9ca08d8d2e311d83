// SPDX-License-Identifier: GPL-2.0

//! Exits of L2: to L1, or ours.

use crate::arch::x86::{
    cpu::Cpu,
    mmu::GuestMemory,
    nested::{
        leave,
        state::Pinned, //
    },
    outcome::{
        Handled,
        Outcome,
        Stop, //
    },
};
use burrow_core::{
    addr::Gpa,
    x86::{
        nested::{
            check::EntryFail,
            reflect::{
                self,
                Exit,
                L0Needs,
                L1Memory,
                Owner, //
            },
            sync::NmiBlocking,
            vmcs12::Vmcs12, //
        },
        vmx::{
            ctls::IntrInfo,
            exit::{
                CrAccess,
                ExitReason,
                ExitReasonWord, //
            },
            field::*,
            insn::InsnInfo, //
        },
    },
};
use burrow_sys::context::{
    IrqsOff,
    PreemptOff, //
};
use core::cell::Cell;
use kernel::sync::atomic::Relaxed;

/// The bitmaps that vmcs12 names.
struct Bitmaps<'a>(&'a GuestMemory);

impl L1Memory for Bitmaps<'_> {
    fn byte(&self, page: Gpa, offset: u16) -> Option<u8> {
        let mut byte = [0];
        self.0
            .read(page.wrapping_add(u64::from(offset)), &mut byte)
            .ok()?;
        Some(byte[0])
    }
}

/// Makes an exit of L2 one to L1 if it is L1's; `None` if it is ours to handle.
pub(crate) fn route(cpu: &mut Cpu<'_>, word: ExitReasonWord, intr_info: u32) -> Option<Handled> {
    let Ok(reason) = ExitReason::try_from(word) else {
        return None;
    };
    if word.entry_failure() {
        return Some(cpu.refused_by_processor(reason).map(|()| Outcome::Resume));
    }
    let exit = cpu.exit_of(reason, intr_info);
    let needs = cpu.l0_needs();
    let memory = Bitmaps(&cpu.vcpu.vm.memory);
    let nested = cpu.arch.nested.as_ref()?;
    match reflect::owner(&nested.vmcs12, &exit, &needs, &memory) {
        Owner::L1 => Some(cpu.reflect(word)),
        Owner::L0 => cpu.handle_l2(reason),
    }
}

/// The MSR bitmap of L1 where it is pinned, which can be looked at in any context.
struct PinnedBitmap<'a> {
    page: Option<&'a Pinned>,
    /// Something else was asked for.
    has_missed: Cell<bool>,
}

impl L1Memory for PinnedBitmap<'_> {
    fn byte(&self, page: Gpa, offset: u16) -> Option<u8> {
        let pinned = self.page.filter(|pinned| pinned.gpa == page.0);
        let Some(pinned) = pinned else {
            self.has_missed.set(true);
            return None;
        };
        let word = pinned.page.word(usize::from(offset / 8)).load(Relaxed);
        word.to_le_bytes().get(usize::from(offset % 8)).copied()
    }
}

impl Cpu<'_> {
    /// Makes an exit of L2 that has just happened one to L1, if it is L1's and that takes no memory of
    /// L1. Returns `false` for others; then nothing has happened.
    #[inline]
    pub(crate) fn exit_at_once(
        &mut self,
        word: ExitReasonWord,
        intr_info: u32,
        preempt: &PreemptOff,
        _irqs: &IrqsOff<'_>,
    ) -> Result<bool, Stop> {
        let Ok(reason) = ExitReason::try_from(word) else {
            return Ok(false);
        };
        if word.entry_failure() || !self.vmcs01.is_on(preempt) {
            return Ok(false);
        }
        let exit = self.exit_of(reason, intr_info);
        let needs = self.l0_needs();
        let nested = self.nested()?;
        if nested.shadow12.is_some() || !leave::touches_no_memory(&nested.vmcs12) {
            return Ok(false);
        }
        let bitmap = PinnedBitmap {
            page: nested.slots[nested.active].pages.msr_bitmap.as_ref(),
            has_missed: Cell::new(false),
        };
        let owner = reflect::owner(&nested.vmcs12, &exit, &needs, &bitmap);
        if owner != Owner::L1 || bitmap.has_missed.get() {
            return Ok(false);
        }
        self.note_l2_entered();
        self.complete_events()?;
        // What vmcs02 has logged, L1's VMCS will not know of.
        self.drain_cpu_log();
        let info = self.hardware_exit(word);
        self.exit_to_l1(info, NmiBlocking::Open)?;
        Ok(true)
    }

    fn exit_of(&self, reason: ExitReason, intr_info: u32) -> Exit {
        let vmcs = self.vmcs();
        let operand = match reason {
            ExitReason::CrAccess => self.operand(usize::from(CrAccess(self.qualification()).gpr())),
            ExitReason::MsrRead | ExitReason::MsrWrite => self.gpr(1),
            ExitReason::Vmread | ExitReason::Vmwrite => {
                let info = InsnInfo(vmcs.get(VMX_INSTRUCTION_INFO));
                self.operand(usize::from(info.reg2()))
            }
            _ => 0,
        };
        let has_code = reason == ExitReason::ExceptionNmi && IntrInfo(intr_info).has_error_code();
        Exit {
            reason,
            qualification: self.qualification(),
            intr_info: IntrInfo(intr_info),
            intr_error_code: if has_code {
                vmcs.get(VM_EXIT_INTR_ERROR_CODE)
            } else {
                0
            },
            operand,
        }
    }

    /// Returns what we want of L2's exits for ourselves: what a debugger in userspace listens to.
    fn l0_needs(&self) -> L0Needs {
        use burrow_core::outcome::vector;
        L0Needs {
            debug_exceptions: self.arch.guest_debug.takes(vector::DB),
            breakpoints: self.arch.guest_debug.takes(vector::BP),
            ..L0Needs::default()
        }
    }

    pub(super) fn reflect(&mut self, word: ExitReasonWord) -> Handled {
        let info = self.hardware_exit(word);
        self.exit_to_l1(info, NmiBlocking::Open)?;
        Ok(Outcome::Resume)
    }

    /// Handles a state of L2 that the processor does not enter. At L1's entry, that is a check of L1's
    /// processor; later, userspace has made it, and L2 has met a triple fault.
    fn refused_by_processor(&mut self, reason: ExitReason) -> Result<(), Stop> {
        if self.is_l2_entry_pending() {
            let qualification = self.qualification();
            return self.fail_entry(EntryFail {
                reason,
                qualification,
            });
        }
        self.exit_for_triple_fault()
    }

    /// Handles what is ours and differs from the same exit of L1; `None` for the rest.
    fn handle_l2(&mut self, reason: ExitReason) -> Option<Handled> {
        match reason {
            ExitReason::EptViolation if self.has_ept12() => Some(self.l2_ept_violation()),
            ExitReason::Vmread | ExitReason::Vmwrite => Some(self.shadow_access(reason)),
            ExitReason::Vmfunc => Some(self.l2_vmfunc()),
            // What the timer stood for is looked at before the next entry.
            ExitReason::PreemptionTimer | ExitReason::MonitorTrapFlag => Some(Ok(Outcome::Resume)),
            _ => None,
        }
    }

    /// Returns whether L1 intercepts port I/O that L2 would do.
    pub(crate) fn l1_wants_ports(&self, port: u16, size: usize) -> bool {
        let memory = Bitmaps(&self.vcpu.vm.memory);
        // CAST: at most 8.
        self.l1_wants(|v| reflect::l1_wants_ports(v, port, size as u8, &memory))
    }

    /// Returns whether `wants` holds of vmcs12 while L2 runs.
    pub(crate) fn l1_wants(&self, wants: impl FnOnce(&Vmcs12) -> bool) -> bool {
        match self.arch.nested.as_ref() {
            Some(nested) if nested.state.is_non_root() => wants(&nested.vmcs12),
            _ => false,
        }
    }
}

impl Cpu<'_> {
    /// Returns the mask and the shadow by which L1 hides bits of L2's CR0; none while L1 runs.
    pub(crate) fn l1_cr0(&self) -> (u64, u64) {
        self.l1_masked(CR0_GUEST_HOST_MASK, CR0_READ_SHADOW)
    }

    /// The same for CR4.
    pub(crate) fn l1_cr4(&self) -> (u64, u64) {
        self.l1_masked(CR4_GUEST_HOST_MASK, CR4_READ_SHADOW)
    }

    fn l1_masked(&self, mask: Field<Natural>, shadow: Field<Natural>) -> (u64, u64) {
        match self.arch.nested.as_ref() {
            Some(nested) if nested.state.is_non_root() => {
                (nested.vmcs12.read(mask), nested.vmcs12.read(shadow))
            }
            _ => (0, 0),
        }
    }

    /// Keeps in vmcs12 what L2 writes to an MSR whose value an exit saves.
    pub(crate) fn note_l2_msr(&mut self, msr: burrow_core::x86::msr::VmcsMsr, value: u64) {
        use burrow_core::x86::{
            msr::VmcsMsr,
            vmx::ctls::ExitCtls, //
        };
        let Some(nested) = self.arch.nested.as_deref_mut() else {
            return;
        };
        if !nested.state.is_non_root() {
            return;
        }
        let v = &mut nested.vmcs12;
        let exit = ExitCtls(v.read(VM_EXIT_CONTROLS));
        match msr {
            // CAST: core cut it to 32 bits.
            VmcsMsr::SysenterCs => v.put_synced(GUEST_SYSENTER_CS, value as u32),
            VmcsMsr::SysenterEsp => v.put_synced(GUEST_SYSENTER_ESP, value),
            VmcsMsr::SysenterEip => v.put_synced(GUEST_SYSENTER_EIP, value),
            VmcsMsr::Pat if exit.save_pat() => v.put_synced(GUEST_IA32_PAT, value),
            _ => {}
        }
    }
}
