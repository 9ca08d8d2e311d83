// SPDX-License-Identifier: GPL-2.0

//! System-management mode: into it by an SMI, out of it by RSM.
//!
//! In it the guest sees other memory ([`Vm::smram`](super::vm::Vm::smram)), which has an EPT of its own,
//! and VMX operation waits (`nested/smm.rs`). RSM raises #UD on the processor, which knows nothing of
//! all this, and is carried out by the handler of that.

use crate::arch::x86::{
    cpu::Cpu,
    mmu::GuestMemory,
    outcome::{
        Handled,
        Outcome,
        Stop,
        UserExit, //
    },
    state::{
        MpState,
        NmisBefore, //
    },
};
use burrow_core::{
    addr::Gpa,
    x86::{
        cpuid::feature,
        event::Interruptibility,
        msr::soft::Soft,
        regs::{
            Cr3,
            Cr4,
            Efer, //
        },
        segment::{
            Name,
            Registers, //
        },
        smm::{
            self,
            map::{
                self,
                Layout, //
            },
            Handler,
            Saved, //
        },
        vmx::field::*, //
    },
};
use kernel::prelude::*;

impl<'a> Cpu<'a> {
    /// Returns whether the vCPU is in system-management mode.
    #[inline]
    pub(crate) fn is_smm(&self) -> bool {
        self.arch.smm.nmis_before.is_some()
    }

    /// Returns the memory that the guest sees.
    #[inline]
    pub(crate) fn memory(&self) -> &'a GuestMemory {
        let vm = &self.vcpu.vm;
        match self.is_smm() {
            true => vm.smram_if_made().unwrap_or(&vm.memory),
            false => &vm.memory,
        }
    }

    /// Names the epoch of that memory, apart from those of the other: see [`GuestMemory::epoch`].
    #[inline]
    pub(crate) fn memory_epoch(&self) -> u64 {
        (self.memory().epoch() << 1) | u64::from(self.is_smm())
    }
}

impl Cpu<'_> {
    /// Enters system-management mode, as an SMI does that was taken from the queue.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory, a return to userspace on a signal; the SMI waits on then.
    pub(crate) fn enter_smm(&mut self) -> Result<(), Stop> {
        if let Err(error) = self.vcpu.vm.smram() {
            self.arch.events.add_smi();
            return Err(match error {
                EINTR => Stop::ToUser(UserExit::Intr),
                error => Stop::Fail(error),
            });
        }
        let saved = self.saved_for_smi();
        let is_nmi_blocked = self.interruptibility().nmi();
        self.suspend_vmx()?;
        self.set_smm(Some(match is_nmi_blocked {
            true => NmisBefore::Blocked,
            false => NmisBefore::Open,
        }));
        let count = self.arch.soft_msrs.get(Soft::SmiCount);
        self.arch
            .soft_msrs
            .set(Soft::SmiCount, count.wrapping_add(1) & 0xffff_ffff);
        let map = map::store(&saved, self.smm_layout());
        // Where nothing can be written, a bus would lose it; RSM finds nothing there, and shuts down.
        let _ = self.memory().write(map_address(saved.smbase), &map);
        self.start_handler(&saved, &Handler::of(&saved));
        Ok(())
    }

    /// RSM in system-management mode: goes back to what the SMI interrupted. The vCPU shuts down where
    /// the handler has left a state that cannot be.
    pub(crate) fn leave_smm(&mut self) -> Handled {
        // CAST: checked when it was set.
        let smbase = self.arch.soft_msrs.get(Soft::Smbase) as u32;
        let mut bytes = [0; map::SIZE];
        let is_read = self.memory().read(map_address(smbase), &mut bytes).is_ok();
        let nmis_before = self.arch.smm.nmis_before;
        self.set_smm(None);
        let is_resumed = is_read && self.resume_vmx()?;
        let saved = map::load(&bytes, self.smm_layout());
        if !is_resumed || !self.restore(&saved, nmis_before)? {
            self.drop_l2();
            self.arch.events.add_triple_fault();
        }
        self.accept_latched_init();
        Ok(Outcome::Resume)
    }

    /// Sets whether the vCPU is in system-management mode, and how NMIs were before, with the memory
    /// that it sees. L2 does not run.
    pub(crate) fn set_smm(&mut self, nmis_before: Option<NmisBefore>) {
        self.arch.smm.nmis_before = nmis_before;
        self.vmcs().set(EPT_POINTER, self.memory().eptp());
        self.update_cpu_logs();
        self.arch.vpid.request_flush();
    }

    fn smm_layout(&self) -> Layout {
        match self.arch.cpuid.caps.has(feature::LM) {
            true => Layout::Bits64,
            false => Layout::Bits32,
        }
    }

    fn saved_for_smi(&mut self) -> Saved {
        let mut gprs = [0; 16];
        for (index, gpr) in gprs.iter_mut().enumerate() {
            *gpr = self.gpr(index);
        }
        let mut segments = Registers::reset();
        for name in Name::ALL {
            segments.set(name, self.segment(name));
        }
        segments.gdtr = self.gdtr();
        segments.idtr = self.idtr();
        let ended_halt = core::mem::take(&mut self.arch.smm.ended_halt);
        let shadow = self.interruptibility();
        Saved {
            gprs,
            rip: self.rip(),
            rflags: self.rflags(),
            cr0: self.cr0(),
            cr3: Cr3(self.cr3()),
            cr4: self.cr4(),
            efer: self.efer(),
            dr6: self.arch.debug.dr6,
            dr7: self.arch.debug.dr7,
            segments,
            // CAST: checked when it was set.
            smbase: self.arch.soft_msrs.get(Soft::Smbase) as u32,
            shadow: Interruptibility(0)
                .with_sti(shadow.sti())
                .with_mov_ss(shadow.mov_ss()),
            auto_halt: ended_halt || self.arch.mp_state == MpState::Halted,
        }
    }

    fn start_handler(&mut self, saved: &Saved, handler: &Handler) {
        self.arch.mp_state = MpState::Runnable;
        self.set_rip(handler.rip);
        self.set_rflags(handler.rflags);
        self.set_interruptibility(Interruptibility(0).with_nmi(true));
        self.vmcs().set(GUEST_PENDING_DBG_EXCEPTIONS, 0);
        self.vmcs().set(GUEST_CR3, saved.cr3.0);
        self.store_efer(Efer(0));
        self.store_cr0(handler.cr0);
        self.store_cr4(Cr4(0));
        self.store_dr7(handler.dr7);
        self.store_segments(&handler.segments);
        self.cpuid_follows_registers();
    }

    /// Loads the registers that an SMI saved, as its handler has left them in memory; returns `false`
    /// where they make no state of the processor.
    fn restore(&mut self, found: &Saved, nmis_before: Option<NmisBefore>) -> Result<bool, Stop> {
        let (cr0_fixed, cr4_fixed) = self.fixed_bits();
        let limits = &self.arch.cpuid.limits;
        let Ok(saved) = smm::restore(found, limits, cr0_fixed, cr4_fixed) else {
            return Ok(false);
        };
        for (index, gpr) in saved.gprs.iter().enumerate() {
            self.set_gpr(index, *gpr);
        }
        self.set_rip(saved.rip);
        self.set_rflags(saved.rflags);
        let blocks_nmis = nmis_before == Some(NmisBefore::Blocked);
        self.set_interruptibility(saved.shadow.with_nmi(blocks_nmis));
        self.vmcs().set(GUEST_CR3, saved.cr3.0);
        self.store_efer(saved.efer);
        self.store_cr0(saved.cr0);
        self.store_cr4(saved.cr4);
        self.arch.debug.dr6 = saved.dr6;
        self.store_dr7(saved.dr7);
        self.store_segments(&saved.segments);
        self.arch
            .soft_msrs
            .set(Soft::Smbase, u64::from(saved.smbase));
        if saved.auto_halt && self.arch.lapic.is_some() {
            self.arch.mp_state = MpState::Halted;
        }
        self.cpuid_follows_registers();
        if self.is_pae_paging() {
            return self.load_pdptrs(saved.cr3.0);
        }
        Ok(true)
    }

    fn store_segments(&mut self, segments: &Registers) {
        for name in Name::ALL {
            self.set_segment(name, segments.get(name));
        }
        self.set_gdtr(segments.gdtr);
        self.set_idtr(segments.idtr);
    }
}

fn map_address(smbase: u32) -> Gpa {
    Gpa(u64::from(smbase).wrapping_add(map::OFFSET))
}
