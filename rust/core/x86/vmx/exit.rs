// SPDX-License-Identifier: GPL-2.0

//! Exit reasons and exit qualifications.

use crate::addr::Gva;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// Basic exit reasons. SDM 3D appendix C "VMX Basic Exit Reasons".
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u16)]
        pub enum ExitReason {
            $( $(#[$doc])* $name = $number, )*
        }

        impl ExitReason {
            /// All reasons, in order.
            pub const ALL: &[ExitReason] = &[ $( ExitReason::$name ),* ];

            /// Returns the reason with this number, or `None` for a number that is not defined.
            #[inline]
            pub const fn from_number(number: u16) -> Option<Self> {
                match number {
                    $( $number => Some(Self::$name), )*
                    _ => None,
                }
            }
        }
    };
}

reasons! {
    /// Exception or non-maskable interrupt.
    ExceptionNmi = 0,
    /// External interrupt.
    ExternalInterrupt = 1,
    /// Triple fault.
    TripleFault = 2,
    /// INIT signal.
    InitSignal = 3,
    /// Start-up IPI.
    SipiSignal = 4,
    /// I/O system-management interrupt.
    IoSmi = 5,
    /// Other SMI.
    OtherSmi = 6,
    /// Interrupt window.
    InterruptWindow = 7,
    /// NMI window.
    NmiWindow = 8,
    /// Task switch.
    TaskSwitch = 9,
    /// CPUID.
    Cpuid = 10,
    /// GETSEC.
    Getsec = 11,
    /// HLT.
    Hlt = 12,
    /// INVD.
    Invd = 13,
    /// INVLPG.
    Invlpg = 14,
    /// RDPMC.
    Rdpmc = 15,
    /// RDTSC.
    Rdtsc = 16,
    /// RSM in SMM.
    Rsm = 17,
    /// VMCALL.
    Vmcall = 18,
    /// VMCLEAR.
    Vmclear = 19,
    /// VMLAUNCH.
    Vmlaunch = 20,
    /// VMPTRLD.
    Vmptrld = 21,
    /// VMPTRST.
    Vmptrst = 22,
    /// VMREAD.
    Vmread = 23,
    /// VMRESUME.
    Vmresume = 24,
    /// VMWRITE.
    Vmwrite = 25,
    /// VMXOFF.
    Vmxoff = 26,
    /// VMXON.
    Vmxon = 27,
    /// Control-register access.
    CrAccess = 28,
    /// MOV DR.
    DrAccess = 29,
    /// I/O instruction.
    IoInstruction = 30,
    /// RDMSR.
    MsrRead = 31,
    /// WRMSR.
    MsrWrite = 32,
    /// VM-entry failure due to invalid guest state.
    InvalidState = 33,
    /// VM-entry failure due to MSR loading.
    MsrLoadFail = 34,
    /// MWAIT.
    Mwait = 36,
    /// Monitor trap flag.
    MonitorTrapFlag = 37,
    /// MONITOR.
    Monitor = 39,
    /// PAUSE.
    Pause = 40,
    /// VM-entry failure due to a machine-check event.
    MceDuringEntry = 41,
    /// TPR below threshold.
    TprBelowThreshold = 43,
    /// APIC access.
    ApicAccess = 44,
    /// Virtualized EOI.
    VirtualizedEoi = 45,
    /// LGDT, LIDT, SGDT or SIDT.
    GdtrIdtr = 46,
    /// LLDT, LTR, SLDT or STR.
    LdtrTr = 47,
    /// EPT violation.
    EptViolation = 48,
    /// EPT misconfiguration.
    EptMisconfig = 49,
    /// INVEPT.
    Invept = 50,
    /// RDTSCP.
    Rdtscp = 51,
    /// VMX-preemption timer expired.
    PreemptionTimer = 52,
    /// INVVPID.
    Invvpid = 53,
    /// WBINVD or WBNOINVD.
    Wbinvd = 54,
    /// XSETBV.
    Xsetbv = 55,
    /// APIC write.
    ApicWrite = 56,
    /// RDRAND.
    Rdrand = 57,
    /// INVPCID.
    Invpcid = 58,
    /// VMFUNC.
    Vmfunc = 59,
    /// ENCLS.
    Encls = 60,
    /// RDSEED.
    Rdseed = 61,
    /// Page-modification log full.
    PmlFull = 62,
    /// XSAVES.
    Xsaves = 63,
    /// XRSTORS.
    Xrstors = 64,
    /// PCONFIG.
    Pconfig = 65,
    /// SPP-related event.
    SppEvent = 66,
    /// UMWAIT.
    Umwait = 67,
    /// TPAUSE.
    Tpause = 68,
    /// LOADIWKEY.
    Loadiwkey = 69,
    /// ENCLV.
    Enclv = 70,
    /// ENQCMD PASID translation failure.
    EnqcmdPasid = 72,
    /// ENQCMDS PASID translation failure.
    EnqcmdsPasid = 73,
    /// Bus lock.
    BusLock = 74,
    /// Instruction timeout (notify window).
    Notify = 75,
    /// SEAMCALL.
    Seamcall = 76,
    /// TDCALL.
    Tdcall = 77,
    /// RDMSRLIST.
    Rdmsrlist = 78,
    /// WRMSRLIST.
    Wrmsrlist = 79,
    /// RDMSR with an immediate MSR number.
    MsrReadImm = 84,
    /// WRMSRNS with an immediate MSR number.
    MsrWriteImm = 85,
}

bitfield! {
    /// The exit-reason field. SDM 3C "Basic VM-Exit Information", 25.9.1.
    pub struct ExitReasonWord(u32) {
        /// Number of the basic exit reason.
        15:0 number, with_number => u16;
        /// A bus lock was acquired, with bus-lock detection.
        26:26 bus_lock, with_bus_lock => bool;
        /// The processor was within an enclave.
        27:27 enclave_mode, with_enclave_mode => bool;
        /// A monitor-trap-flag exit is pending (SMM VM exits only).
        28:28 pending_mtf, with_pending_mtf => bool;
        /// The exit was from VMX root operation (SMM VM exits only).
        29:29 from_root, with_from_root => bool;
        /// VM-entry failure: the guest did not run.
        31:31 entry_failure, with_entry_failure => bool;
    }
}

impl ExitReasonWord {
    /// Makes the word of a true VM exit.
    #[inline]
    pub fn exit(reason: ExitReason) -> Self {
        Self(reason as u32)
    }

    /// Makes the word of a VM-entry failure.
    #[inline]
    pub fn failed_entry(reason: ExitReason) -> Self {
        Self(reason as u32).with_entry_failure(true)
    }
}

impl TryFrom<ExitReasonWord> for ExitReason {
    type Error = u16;

    /// Returns the basic reason, or its number where that is not defined.
    #[inline]
    fn try_from(word: ExitReasonWord) -> Result<Self, u16> {
        Self::from_number(word.number()).ok_or(word.number())
    }
}

bitfield! {
    /// Exit qualification of a control-register access. SDM 3C "Basic VM-Exit Information", 28.2.1.
    pub struct CrAccess(u64) {
        /// Number of the control register.
        3:0 cr, with_cr => u8;
        /// Access type; [`CrAccess::access`] names it.
        5:4 access_code, with_access_code => u8;
        /// LMSW had a memory operand.
        6:6 lmsw_memory, with_lmsw_memory => bool;
        /// General-purpose register of a MOV.
        11:8 gpr, with_gpr => u8;
        /// Source data of LMSW.
        31:16 lmsw_source, with_lmsw_source => u16;
    }
}

bitfield! {
    /// Exit qualification of MOV DR. SDM 3C "Basic VM-Exit Information", 28.2.1.
    pub struct DrAccess(u64) {
        /// Number of the debug register.
        2:0 dr, with_dr => u8;
        /// MOV from DR (else to DR).
        4:4 is_read, with_is_read => bool;
        /// General-purpose register.
        11:8 gpr, with_gpr => u8;
    }
}

bitfield! {
    /// Exit qualification of an I/O instruction. SDM 3C "Basic VM-Exit Information", 28.2.1.
    pub struct IoAccess(u64) {
        /// Size of the access in bytes, minus 1: 0, 1 or 3.
        2:0 size_minus_1, with_size_minus_1 => u8;
        /// IN (else OUT).
        3:3 is_in, with_is_in => bool;
        /// INS or OUTS.
        4:4 is_string, with_is_string => bool;
        /// REP prefix.
        5:5 has_rep, with_has_rep => bool;
        /// The port is an immediate operand (else DX).
        6:6 is_immediate, with_is_immediate => bool;
        /// Port number.
        31:16 port, with_port => u16;
    }
}

bitfield! {
    /// Exit qualification of an EPT violation. SDM 3C "Basic VM-Exit Information", 28.2.1.
    pub struct EptViolation(u64) {
        /// The access was a data read.
        0:0 read, with_read => bool;
        /// The access was a data write.
        1:1 write, with_write => bool;
        /// The access was an instruction fetch.
        2:2 fetch, with_fetch => bool;
        /// The translation allowed reads (AND over all entries).
        3:3 readable, with_readable => bool;
        /// The translation allowed writes.
        4:4 writable, with_writable => bool;
        /// The translation allowed (supervisor-mode) fetches.
        5:5 executable, with_executable => bool;
        /// The translation allowed user-mode fetches, with mode-based execute control.
        6:6 user_executable, with_user_executable => bool;
        /// The guest linear-address field is valid.
        7:7 linear_valid, with_linear_valid => bool;
        /// The access was to the final page, not to a paging-structure entry.
        8:8 is_final, with_is_final => bool;
        /// User-mode linear address, with advanced exit information.
        9:9 is_user, with_is_user => bool;
        /// Read/write linear address, with advanced exit information.
        10:10 is_writable_linear, with_is_writable_linear => bool;
        /// Execute-disable linear address, with advanced exit information.
        11:11 is_nx_linear, with_is_nx_linear => bool;
        /// NMI unblocking due to IRET.
        12:12 nmi_unblocking, with_nmi_unblocking => bool;
        /// The access was a shadow-stack access.
        13:13 shadow_stack, with_shadow_stack => bool;
        /// The entry had its supervisor shadow-stack bit set.
        14:14 supervisor_shadow_stack, with_supervisor_shadow_stack => bool;
        /// Guest-paging verification caused the exit.
        15:15 guest_paging_verification, with_guest_paging_verification => bool;
        /// The access was asynchronous to instruction execution.
        16:16 asynchronous, with_asynchronous => bool;
    }
}

bitfield! {
    /// Exit qualification of an APIC access. SDM 3C "Basic VM-Exit Information", 28.2.1.
    pub struct ApicAccess(u64) {
        /// Offset within the APIC page.
        11:0 offset, with_offset => u16;
        /// Access type: 0 linear read, 1 linear write, 2 fetch, 3 linear event delivery, 10 guest-physical
        /// event delivery, 15 guest-physical access.
        15:12 access_code, with_access_code => u8;
        /// The access was asynchronous to instruction execution.
        16:16 asynchronous, with_asynchronous => bool;
    }
}

bitfield! {
    /// Exit qualification of a task switch. SDM 3C "Basic VM-Exit Information", 28.2.1.
    pub struct TaskSwitch(u64) {
        /// Selector of the new TSS.
        15:0 selector, with_selector => u16;
        /// Source; [`TaskSwitch::source`] names it.
        31:30 source_code, with_source_code => u8;
    }
}

bitfield! {
    /// Exit qualification of #DB: bits for DR6. SDM 3C "Basic VM-Exit Information", 28.2.1.
    pub struct DebugQual(u64) {
        /// Breakpoint conditions B3 to B0 were met.
        3:0 breakpoints, with_breakpoints => u8;
        /// A bus lock was acquired (polarity opposite to DR6).
        11:11 bus_lock, with_bus_lock => bool;
        /// Debug-register access detected (BD).
        13:13 debug_register_access, with_debug_register_access => bool;
        /// Single step (BS).
        14:14 single_step, with_single_step => bool;
        /// Within an RTM region (polarity opposite to DR6).
        16:16 rtm, with_rtm => bool;
    }
}

/// What a control-register access was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CrAccessType {
    /// MOV to CR.
    MovTo,
    /// MOV from CR.
    MovFrom,
    /// CLTS.
    Clts,
    /// LMSW.
    Lmsw,
}

impl CrAccess {
    /// Returns what the access was.
    #[inline]
    pub fn access(self) -> CrAccessType {
        match self.access_code() {
            0 => CrAccessType::MovTo,
            1 => CrAccessType::MovFrom,
            2 => CrAccessType::Clts,
            _ => CrAccessType::Lmsw,
        }
    }
}

impl IoAccess {
    /// Returns the size of one element of the access in bytes: 1, 2 or 4.
    #[inline]
    pub fn size_bytes(self) -> u8 {
        match self.size_minus_1() {
            0 => 1,
            1 => 2,
            _ => 4,
        }
    }
}

/// What caused a task switch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TaskSwitchSource {
    /// CALL.
    Call,
    /// IRET.
    Iret,
    /// JMP.
    Jmp,
    /// A task gate in the IDT.
    TaskGate,
}

impl TaskSwitch {
    /// Returns what caused the task switch.
    #[inline]
    pub fn source(self) -> TaskSwitchSource {
        match self.source_code() {
            0 => TaskSwitchSource::Call,
            1 => TaskSwitchSource::Iret,
            2 => TaskSwitchSource::Jmp,
            _ => TaskSwitchSource::TaskGate,
        }
    }
}

/// Returns the linear address that the qualification of an INVLPG exit holds.
#[inline]
pub const fn invlpg_address(qualification: u64) -> Gva {
    Gva(qualification)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_converts_back_from_its_number() {
        for reason in ExitReason::ALL {
            assert_eq!(ExitReason::from_number(*reason as u16), Some(*reason));
        }
        for undefined in [35, 38, 42, 71, 80, 0xffff] {
            assert_eq!(ExitReason::from_number(undefined), None);
        }
    }

    #[test]
    fn entry_failure_keeps_the_basic_reason() {
        let word = ExitReasonWord::failed_entry(ExitReason::InvalidState);
        assert_eq!(word.0, 0x8000_0021);
        assert_eq!(ExitReason::try_from(word), Ok(ExitReason::InvalidState));
        assert_eq!(ExitReason::try_from(ExitReasonWord(35)), Err(35));
    }

    #[test]
    fn cr_access_of_mov_to_cr8_decodes() {
        let q = CrAccess(0x0308);
        assert_eq!((q.cr(), q.access(), q.gpr()), (8, CrAccessType::MovTo, 3));
        let lmsw = CrAccess(0xfff1_0070);
        assert_eq!(
            (lmsw.access(), lmsw.lmsw_source()),
            (CrAccessType::Lmsw, 0xfff1)
        );
        assert!(lmsw.lmsw_memory());
    }

    #[test]
    fn io_access_of_rep_outsd_decodes() {
        let q = IoAccess(0x03f8_0033);
        assert_eq!((q.size_bytes(), q.port()), (4, 0x3f8));
        assert!(!q.is_in() && q.is_string() && q.has_rep() && !q.is_immediate());
    }

    #[test]
    fn task_switch_by_gate_decodes() {
        let q = TaskSwitch(0xc000_0028);
        assert_eq!(
            (q.selector(), q.source()),
            (0x28, TaskSwitchSource::TaskGate)
        );
    }
}
