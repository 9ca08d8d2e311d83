// SPDX-License-Identifier: GPL-2.0

//! VMX capability MSRs, and what Burrow makes of them for its own VMCSs.
//!
//! [`VmxCaps`] is the processor's word, read once. [`HostSupport::from_caps`] decides whether it is
//! enough and which controls vmcs01 has; it never drops a control that it needs, but names the
//! first that is missing.

pub use super::capmsr::{
    adjust,
    msr,
    CtlMsr,
    EptVpidCap,
    MissingBits,
    VmxBasic,
    VmxMisc, //
};
use super::ctls::{
    EntryCtls,
    ExitCtls,
    PinCtls,
    Proc2Ctls,
    ProcCtls, //
};

/// The VMX capability MSRs of a processor, or those that a guest is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VmxCaps {
    /// IA32_VMX_BASIC.
    pub basic: VmxBasic,
    /// IA32_VMX_PINBASED_CTLS.
    pub pinbased: CtlMsr,
    /// IA32_VMX_PROCBASED_CTLS.
    pub procbased: CtlMsr,
    /// IA32_VMX_EXIT_CTLS.
    pub exit: CtlMsr,
    /// IA32_VMX_ENTRY_CTLS.
    pub entry: CtlMsr,
    /// IA32_VMX_MISC.
    pub misc: VmxMisc,
    /// IA32_VMX_CR0_FIXED0: bits that must be 1 in VMX operation.
    pub cr0_fixed0: u64,
    /// IA32_VMX_CR0_FIXED1: bits that may be 1 in VMX operation.
    pub cr0_fixed1: u64,
    /// IA32_VMX_CR4_FIXED0.
    pub cr4_fixed0: u64,
    /// IA32_VMX_CR4_FIXED1.
    pub cr4_fixed1: u64,
    /// IA32_VMX_VMCS_ENUM: the highest field index, in bits 9:1.
    pub vmcs_enum: u64,
    /// IA32_VMX_PROCBASED_CTLS2, or 0 without secondary controls.
    pub procbased2: CtlMsr,
    /// IA32_VMX_EPT_VPID_CAP, or 0 without EPT and VPID.
    pub ept_vpid: EptVpidCap,
    /// IA32_VMX_TRUE_PINBASED_CTLS, or 0 without TRUE MSRs.
    pub true_pinbased: CtlMsr,
    /// IA32_VMX_TRUE_PROCBASED_CTLS, or 0 without TRUE MSRs.
    pub true_procbased: CtlMsr,
    /// IA32_VMX_TRUE_EXIT_CTLS, or 0 without TRUE MSRs.
    pub true_exit: CtlMsr,
    /// IA32_VMX_TRUE_ENTRY_CTLS, or 0 without TRUE MSRs.
    pub true_entry: CtlMsr,
    /// IA32_VMX_VMFUNC: allowed VM functions, or 0 without "enable VM functions".
    pub vmfunc: u64,
    /// IA32_VMX_PROCBASED_CTLS3: allowed tertiary controls, or 0 without them.
    pub procbased3: u64,
    /// IA32_VMX_EXIT_CTLS2: allowed secondary exit controls, or 0 without them.
    pub exit2: u64,
}

impl VmxCaps {
    /// Reads all capability MSRs that the processor has, each once, with `rdmsr`, and no other.
    pub fn read(mut rdmsr: impl FnMut(u32) -> u64) -> Self {
        let mut caps = Self {
            basic: VmxBasic(rdmsr(msr::IA32_VMX_BASIC)),
            pinbased: CtlMsr(rdmsr(msr::IA32_VMX_PINBASED_CTLS)),
            procbased: CtlMsr(rdmsr(msr::IA32_VMX_PROCBASED_CTLS)),
            exit: CtlMsr(rdmsr(msr::IA32_VMX_EXIT_CTLS)),
            entry: CtlMsr(rdmsr(msr::IA32_VMX_ENTRY_CTLS)),
            misc: VmxMisc(rdmsr(msr::IA32_VMX_MISC)),
            cr0_fixed0: rdmsr(msr::IA32_VMX_CR0_FIXED0),
            cr0_fixed1: rdmsr(msr::IA32_VMX_CR0_FIXED1),
            cr4_fixed0: rdmsr(msr::IA32_VMX_CR4_FIXED0),
            cr4_fixed1: rdmsr(msr::IA32_VMX_CR4_FIXED1),
            vmcs_enum: rdmsr(msr::IA32_VMX_VMCS_ENUM),
            ..Self::default()
        };
        if caps.basic.true_ctls() {
            caps.true_pinbased = CtlMsr(rdmsr(msr::IA32_VMX_TRUE_PINBASED_CTLS));
            caps.true_procbased = CtlMsr(rdmsr(msr::IA32_VMX_TRUE_PROCBASED_CTLS));
            caps.true_exit = CtlMsr(rdmsr(msr::IA32_VMX_TRUE_EXIT_CTLS));
            caps.true_entry = CtlMsr(rdmsr(msr::IA32_VMX_TRUE_ENTRY_CTLS));
        }
        let proc = ProcCtls(caps.proc().allowed1());
        if proc.secondary() {
            caps.procbased2 = CtlMsr(rdmsr(msr::IA32_VMX_PROCBASED_CTLS2));
        }
        if proc.tertiary() {
            caps.procbased3 = rdmsr(msr::IA32_VMX_PROCBASED_CTLS3);
        }
        if ExitCtls(caps.exit_ctls().allowed1()).secondary() {
            caps.exit2 = rdmsr(msr::IA32_VMX_EXIT_CTLS2);
        }
        let proc2 = caps.proc2_allowed();
        if proc2.ept() || proc2.vpid() {
            caps.ept_vpid = EptVpidCap(rdmsr(msr::IA32_VMX_EPT_VPID_CAP));
        }
        if proc2.vmfunc() {
            caps.vmfunc = rdmsr(msr::IA32_VMX_VMFUNC);
        }
        caps
    }

    fn pick(&self, true_msr: CtlMsr, msr: CtlMsr) -> CtlMsr {
        if self.basic.true_ctls() {
            true_msr
        } else {
            msr
        }
    }

    /// Returns the MSR that rules the pin-based controls: the TRUE one where it exists.
    #[inline]
    pub fn pin(&self) -> CtlMsr {
        self.pick(self.true_pinbased, self.pinbased)
    }

    /// Returns the MSR that rules the primary processor-based controls.
    #[inline]
    pub fn proc(&self) -> CtlMsr {
        self.pick(self.true_procbased, self.procbased)
    }

    /// Returns the MSR that rules the VM-exit controls.
    #[inline]
    pub fn exit_ctls(&self) -> CtlMsr {
        self.pick(self.true_exit, self.exit)
    }

    /// Returns the MSR that rules the VM-entry controls.
    #[inline]
    pub fn entry_ctls(&self) -> CtlMsr {
        self.pick(self.true_entry, self.entry)
    }

    /// Returns the secondary controls that may be 1.
    #[inline]
    pub fn proc2_allowed(&self) -> Proc2Ctls {
        Proc2Ctls(self.procbased2.allowed1())
    }
}

/// The module parameters that bear on the controls; names and meaning are KVM's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Params {
    /// Guests may use VMX.
    pub nested: bool,
    /// EPT is used; Burrow needs it.
    pub ept: bool,
    /// VPIDs are used; Burrow needs them.
    pub vpid: bool,
    /// Unrestricted guest is used; Burrow needs it.
    pub unrestricted_guest: bool,
    /// VMCS shadowing is used for nested guests, where present.
    pub enable_shadow_vmcs: bool,
    /// The VMX-preemption timer is used, where present.
    pub preemption_timer: bool,
    /// APICv (APIC-register virtualization, virtual-interrupt delivery, posted interrupts) is
    /// used, where all of it is present.
    pub enable_apicv: bool,
    /// Page-modification logging is used, where present.
    pub pml: bool,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            nested: true,
            ept: true,
            vpid: true,
            unrestricted_guest: true,
            enable_shadow_vmcs: true,
            preemption_timer: true,
            enable_apicv: true,
            pml: true,
        }
    }
}

/// What is missing, in words for one line of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Missing(pub &'static str);

/// One value for each 32-bit control word of a VMCS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Controls {
    /// Pin-based controls.
    pub pin: PinCtls,
    /// Primary processor-based controls.
    pub proc: ProcCtls,
    /// Secondary processor-based controls.
    pub proc2: Proc2Ctls,
    /// VM-exit controls.
    pub exit: ExitCtls,
    /// VM-entry controls.
    pub entry: EntryCtls,
}

impl Controls {
    /// Returns the controls for a vCPU whose LAPIC is not ours to virtualize: no TPR shadow, none
    /// of the controls that need one, and exits for CR8.
    #[must_use]
    pub fn without_tpr_shadow(mut self) -> Self {
        self.proc = self
            .proc
            .with_tpr_shadow(false)
            .with_cr8_load_exiting(true)
            .with_cr8_store_exiting(true);
        self.proc2 = self
            .proc2
            .with_virtualize_apic(false)
            .with_virtualize_x2apic(false)
            .with_apic_register_virt(false)
            .with_virtual_intr_delivery(false);
        self.pin = self.pin.with_posted_intr(false);
        self
    }
}

/// The decision of [`HostSupport::from_caps`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControlSet {
    /// The controls that a fresh vmcs01 has.
    pub initial: Controls,
    /// The controls that may be turned on besides, while the guest runs: windows, timer, APICv,
    /// shadowing, PML and so on; a bit that the processor or a parameter denies is 0.
    pub switchable: Controls,
    /// What EPT, INVEPT and INVVPID can do.
    pub ept_vpid: EptVpidCap,
}

impl ControlSet {
    /// Returns whether APICv is usable: all of its three controls, and a TPR shadow.
    #[inline]
    pub fn has_apicv(&self) -> bool {
        self.switchable.pin.posted_intr()
    }

    /// Returns whether page-modification logging is usable, with the flags that it looks at.
    #[inline]
    pub fn has_pml(&self) -> bool {
        self.switchable.proc2.pml()
    }

    /// Returns whether the VMX-preemption timer is usable.
    #[inline]
    pub fn has_preemption_timer(&self) -> bool {
        self.switchable.pin.preemption_timer()
    }

    /// Returns whether VMCS shadowing is usable.
    #[inline]
    pub fn has_vmcs_shadowing(&self) -> bool {
        self.switchable.proc2.vmcs_shadowing()
    }

    /// Returns whether virtual NMIs, and thus NMI windows, are in use.
    #[inline]
    pub fn has_virtual_nmis(&self) -> bool {
        self.initial.pin.virtual_nmis()
    }
}

/// The policy: what Burrow needs of its host, and what it uses where it is there.
pub struct HostSupport;

/// A row of a table of needs: the bits, and their name for the log.
type Need = (u32, &'static str);

fn first_missing(needs: &[Need], msr: CtlMsr) -> Result<u32, Missing> {
    needs.iter().try_fold(0, |word, (bits, name)| {
        if bits & !msr.allowed1() != 0 {
            Err(Missing(name))
        } else {
            Ok(word | bits)
        }
    })
}

/// Computes a control word; `tolerated` are the bits that the processor may force to 1 without
/// harm.
fn word(needs: &[Need], optional: u32, tolerated: u32, msr: CtlMsr) -> Result<u32, Missing> {
    let required = first_missing(needs, msr)?;
    let word = adjust(required, optional, msr)
        .map_err(|MissingBits(_)| Missing("a required VMX control"))?;
    if word & !(required | optional | tolerated) != 0 {
        return Err(Missing(
            "the 0-setting of a VMX control that Burrow does not know",
        ));
    }
    Ok(word)
}

impl HostSupport {
    /// Decides whether a processor with `caps` can be the host, and with which controls.
    ///
    /// # Errors
    ///
    /// The first feature that Burrow needs and the processor, or a parameter, denies.
    pub fn from_caps(caps: &VmxCaps, params: Params) -> Result<ControlSet, Missing> {
        Self::basic(caps)?;
        let pin = Self::pin(caps)?;
        let proc = Self::proc(caps)?;
        let proc2 = Self::proc2(caps)?;
        Self::ept_and_vpid(caps, params)?;
        let exit = Self::exit(caps)?;
        let entry = Self::entry(caps)?;
        Ok(ControlSet {
            initial: Controls {
                pin,
                proc,
                proc2,
                exit,
                entry,
            },
            switchable: Self::switchable(caps, params, pin),
            ept_vpid: caps.ept_vpid,
        })
    }

    fn basic(caps: &VmxCaps) -> Result<(), Missing> {
        if caps.basic.region_size() > 4096 {
            return Err(Missing("VMCS regions of at most 4096 bytes"));
        }
        if caps.basic.has_32bit_addresses() {
            return Err(Missing("64-bit addresses of VMX structures"));
        }
        if caps.basic.memory_type() != 6 {
            return Err(Missing("write-back VMCS regions"));
        }
        Ok(())
    }

    fn pin(caps: &VmxCaps) -> Result<PinCtls, Missing> {
        let bits = PinCtls(0);
        let needs = [
            (
                bits.with_ext_intr_exiting(true).0,
                "external-interrupt exiting",
            ),
            (bits.with_nmi_exiting(true).0, "NMI exiting"),
        ];
        let optional = bits.with_virtual_nmis(true).0;
        word(&needs, optional, PinCtls::DEFAULT1.0, caps.pin()).map(PinCtls)
    }

    fn proc(caps: &VmxCaps) -> Result<ProcCtls, Missing> {
        let bits = ProcCtls(0);
        let needs = [
            (
                bits.with_secondary(true).0,
                "secondary processor-based controls",
            ),
            (bits.with_msr_bitmaps(true).0, "MSR bitmaps"),
            (bits.with_hlt_exiting(true).0, "HLT exiting"),
            (bits.with_mov_dr_exiting(true).0, "MOV-DR exiting"),
            (
                bits.with_uncond_io_exiting(true).0,
                "unconditional I/O exiting",
            ),
            (bits.with_tsc_offsetting(true).0, "TSC offsetting"),
            (bits.with_mwait_exiting(true).0, "MWAIT exiting"),
            (bits.with_monitor_exiting(true).0, "MONITOR exiting"),
            (bits.with_rdpmc_exiting(true).0, "RDPMC exiting"),
            (bits.with_intr_window(true).0, "interrupt-window exiting"),
        ];
        let has_shadow = ProcCtls(caps.proc().allowed1()).tpr_shadow();
        let cr8 = bits
            .with_cr8_load_exiting(true)
            .with_cr8_store_exiting(true);
        let tpr = if has_shadow {
            bits.with_tpr_shadow(true)
        } else {
            cr8
        };
        if !has_shadow {
            first_missing(&[(cr8.0, "CR8 exiting or a TPR shadow")], caps.proc())?;
        }
        // CR3 and INVLPG exits are of no use with EPT. Where they cannot be turned off (no TRUE
        // MSRs) they are forced on, and handled.
        let tolerated = ProcCtls::DEFAULT1.0;
        let proc = word(&needs, tpr.0, tolerated, caps.proc()).map(ProcCtls)?;
        // The window is needed, but not now.
        Ok(proc.with_intr_window(ProcCtls(caps.proc().allowed0()).intr_window()))
    }

    fn proc2(caps: &VmxCaps) -> Result<Proc2Ctls, Missing> {
        let bits = Proc2Ctls(0);
        let needs = [
            (bits.with_ept(true).0, "EPT"),
            (bits.with_vpid(true).0, "VPID"),
            (bits.with_unrestricted_guest(true).0, "unrestricted guest"),
        ];
        let optional = bits
            .with_rdtscp(true)
            .with_invpcid(true)
            .with_xsaves(true)
            .with_wbinvd_exiting(true);
        word(&needs, optional.0, 0, caps.procbased2).map(Proc2Ctls)
    }

    fn ept_and_vpid(caps: &VmxCaps, params: Params) -> Result<(), Missing> {
        let cap = caps.ept_vpid;
        let needs = [
            (params.ept, "EPT (the parameter ept=0 is not supported)"),
            (params.vpid, "VPID (the parameter vpid=0 is not supported)"),
            (
                params.unrestricted_guest,
                "unrestricted guest (the parameter unrestricted_guest=0 is not supported)",
            ),
            (cap.four_levels(), "EPT with four levels"),
            (cap.write_back(), "write-back EPT paging structures"),
            (cap.invept(), "INVEPT"),
            (cap.invept_single(), "INVEPT of a single context"),
            (cap.invept_all(), "INVEPT of all contexts"),
            (cap.invvpid(), "INVVPID"),
            (cap.invvpid_single(), "INVVPID of a single context"),
            (cap.invvpid_all(), "INVVPID of all contexts"),
        ];
        match needs.iter().find(|(present, _)| !present) {
            Some((_, name)) => Err(Missing(name)),
            None => Ok(()),
        }
    }

    fn exit(caps: &VmxCaps) -> Result<ExitCtls, Missing> {
        let bits = ExitCtls(0);
        let needs = [
            (
                bits.with_host_64bit(true).0,
                "a 64-bit host (host address-space size)",
            ),
            (
                bits.with_save_debug(true).0,
                "saving of debug controls on VM exit",
            ),
            (
                bits.with_ack_intr(true).0,
                "acknowledging of interrupts on VM exit",
            ),
            (
                bits.with_load_efer(true).0,
                "loading of IA32_EFER on VM exit",
            ),
        ];
        let optional = bits.with_load_pat(true).0;
        word(&needs, optional, ExitCtls::DEFAULT1.0, caps.exit_ctls()).map(ExitCtls)
    }

    fn entry(caps: &VmxCaps) -> Result<EntryCtls, Missing> {
        let bits = EntryCtls(0);
        let needs = [
            (
                bits.with_load_debug(true).0,
                "loading of debug controls on VM entry",
            ),
            (
                bits.with_load_efer(true).0,
                "loading of IA32_EFER on VM entry",
            ),
            (bits.with_ia32e(true).0, "IA-32e mode guests"),
        ];
        let optional = bits.with_load_pat(true).0;
        let tolerated = EntryCtls::DEFAULT1.0;
        // "IA-32e mode guest" follows the guest's EFER.LMA.
        word(&needs, optional, tolerated, caps.entry_ctls())
            .map(|bits| EntryCtls(bits).with_ia32e(false))
    }

    /// Returns the controls that may be turned on later.
    fn switchable(caps: &VmxCaps, params: Params, pin: PinCtls) -> Controls {
        let proc_bits = ProcCtls(0)
            .with_intr_window(true)
            .with_nmi_window(pin.virtual_nmis())
            .with_monitor_trap_flag(true)
            .with_rdtsc_exiting(true)
            .with_pause_exiting(true)
            .with_invlpg_exiting(true)
            .with_cr3_load_exiting(true)
            .with_cr3_store_exiting(true)
            .with_cr8_load_exiting(true)
            .with_cr8_store_exiting(true)
            .with_io_bitmaps(true);
        let proc = proc_bits.intersection(ProcCtls(caps.proc().allowed1()));
        let apicv = Self::has_apicv(caps, params);
        let shadowing = params.nested && params.enable_shadow_vmcs && caps.misc.vmwrite_any();
        let tpr_shadow = ProcCtls(caps.proc().allowed1()).tpr_shadow();
        let proc2 = Proc2Ctls(0)
            .with_desc_exiting(true)
            .with_pause_loop_exiting(true)
            .with_rdrand_exiting(true)
            .with_rdseed_exiting(true)
            .with_pml(params.pml && caps.ept_vpid.accessed_dirty())
            .with_mode_based_exec(true)
            .with_tsc_scaling(true)
            .with_user_wait_pause(true)
            .with_encls_exiting(true)
            .with_vmcs_shadowing(shadowing)
            .with_virtualize_apic(tpr_shadow)
            .with_virtualize_x2apic(apicv)
            .with_apic_register_virt(apicv)
            .with_virtual_intr_delivery(apicv)
            .intersection(caps.proc2_allowed());
        let pin = PinCtls(0)
            .with_preemption_timer(params.preemption_timer)
            .with_posted_intr(apicv)
            .intersection(PinCtls(caps.pin().allowed1()));
        let exit = ExitCtls(0)
            .with_save_preemption_timer(pin.preemption_timer())
            .with_save_pat(true)
            .with_save_efer(true)
            .with_load_perf_global(true)
            .with_clear_bndcfgs(true)
            .with_load_cet(true)
            .intersection(ExitCtls(caps.exit_ctls().allowed1()));
        let entry = EntryCtls(0)
            .with_ia32e(true)
            .with_load_perf_global(true)
            .with_load_bndcfgs(true)
            .with_load_cet(true)
            .intersection(EntryCtls(caps.entry_ctls().allowed1()));
        Controls {
            pin,
            proc,
            proc2,
            exit,
            entry,
        }
    }

    fn has_apicv(caps: &VmxCaps, params: Params) -> bool {
        let proc2 = caps.proc2_allowed();
        params.enable_apicv
            && ProcCtls(caps.proc().allowed1()).tpr_shadow()
            && proc2.apic_register_virt()
            && proc2.virtual_intr_delivery()
            && proc2.virtualize_x2apic()
            && PinCtls(caps.pin().allowed1()).posted_intr()
            && ExitCtls(caps.exit_ctls().allowed1()).ack_intr()
    }
}

#[cfg(test)]
mod tests;
