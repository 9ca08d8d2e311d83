// SPDX-License-Identifier: GPL-2.0

//! VMFUNC of L2: which function it asks for, and whether L1 lets it.
//!
//! No function is enabled in vmcs02, so the processor leaves every VMFUNC that does not fault to L0.
//! SDM 3C "VM Functions", 26.5.6.

use super::super::vmx::field::*;
use super::caps::VMFUNC_EPTP_SWITCHING;
use super::merge::proc2_12;
use super::vmcs12::Vmcs12;
use crate::addr::Gpa;

/// How many EPT pointers an EPTP list has.
const NR_EPTPS: u32 = 512;

/// What a VMFUNC of L2 does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Function {
    /// There is no such function: #UD.
    Undefined,
    /// L1 has not enabled it, or not this use of it: a VM exit.
    Exit,
    /// EPTP switching: the EPT pointer at this address is to be loaded. It is a VM exit if that is not
    /// there, or a VM entry would not take it ([`is_eptp`](super::state::is_eptp)).
    SwitchEptp {
        /// Guest-physical address of L1, of the entry of the EPTP list.
        entry: Gpa,
    },
}

/// Returns what VMFUNC does with `eax` and `ecx` in an L2 that runs with `v`.
pub fn select(v: &Vmcs12, eax: u32, ecx: u32) -> Function {
    if !proc2_12(v).vmfunc() {
        return Function::Undefined;
    }
    let Some(function) = 1u64.checked_shl(eax) else {
        return Function::Undefined;
    };
    if v.read(VM_FUNCTION_CONTROL) & function == 0 {
        return Function::Exit;
    }
    match function {
        VMFUNC_EPTP_SWITCHING if ecx < NR_EPTPS => Function::SwitchEptp {
            entry: Gpa(v.read(EPTP_LIST_ADDRESS)).wrapping_add(u64::from(ecx) << 3),
        },
        _ => Function::Exit,
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::vmx::ctls::Proc2Ctls;
    use super::super::merge::tests::with_proc2;
    use super::*;

    fn vmcs12(controls: u64) -> Vmcs12 {
        let mut v = with_proc2(Proc2Ctls(0).with_vmfunc(true).with_ept(true));
        v.write(VM_FUNCTION_CONTROL, controls);
        v.write(EPTP_LIST_ADDRESS, 0x5000);
        v
    }

    #[test]
    fn without_the_control_it_is_undefined() {
        let mut v = vmcs12(1);
        v.write(SECONDARY_VM_EXEC_CONTROL, 0);
        assert_eq!(select(&v, 0, 0), Function::Undefined);
    }

    #[test]
    fn function_above_63_is_undefined() {
        let v = vmcs12(u64::MAX);
        assert_eq!(select(&v, 64, 0), Function::Undefined);
        assert_eq!(select(&v, u32::MAX, 0), Function::Undefined);
        assert_eq!(select(&v, 63, 0), Function::Exit);
    }

    #[test]
    fn function_that_is_not_enabled_exits() {
        assert_eq!(select(&vmcs12(0), 0, 0), Function::Exit);
        assert_eq!(select(&vmcs12(1), 1, 0), Function::Exit);
    }

    #[test]
    fn eptp_list_has_512_entries() {
        let v = vmcs12(1);
        let entry = Gpa(0x5ff8);
        assert_eq!(select(&v, 0, 511), Function::SwitchEptp { entry });
        assert_eq!(select(&v, 0, 512), Function::Exit);
    }
}
