// SPDX-License-Identifier: GPL-2.0

//! The page-modification log that L1 keeps of L2.
//!
//! The shadow of L1's EPT lets L2 write to a page only once the dirty flag of L1's entry is set. So the
//! walk that sets it sees every page that the processor of L1 would log. SDM 3C "Page-Modification
//! Logging", 30.3.6.

use super::super::ept::Eptp;
use super::super::vmx::field::*;
use super::super::vmx::pml::NR_ENTRIES;
use super::merge::proc2_12;
use super::vmcs12::Vmcs12;
use crate::addr::Gpa;

/// Whether pages are logged when their dirty flags are set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageLog {
    /// They are not.
    Off,
    /// They are, and the log has room.
    Room,
    /// They would be, but the log is full: a flag that would have to be set is a VM exit.
    Full,
}

/// Returns whether L1 logs the pages of an L2 that runs with `v`.
pub fn state(v: &Vmcs12) -> PageLog {
    if !proc2_12(v).pml() || !Eptp(v.read(EPT_POINTER)).accessed_dirty() {
        PageLog::Off
    } else if v.read(GUEST_PML_INDEX) < NR_ENTRIES {
        PageLog::Room
    } else {
        PageLog::Full
    }
}

/// Takes an entry of the log, for the page of `gpa`; returns where in L1's memory it is and what it
/// holds, or `None` if there is no room.
pub fn append(v: &mut Vmcs12, gpa: Gpa) -> Option<(Gpa, u64)> {
    if state(v) != PageLog::Room {
        return None;
    }
    let index = v.read(GUEST_PML_INDEX);
    let address = Gpa(v.read(PML_ADDRESS)).wrapping_add(u64::from(index) << 3);
    v.put_synced(GUEST_PML_INDEX, index.wrapping_sub(1));
    Some((address, gpa.0 & !0xfff))
}

#[cfg(test)]
mod tests {
    use super::super::super::vmx::ctls::Proc2Ctls;
    use super::super::merge::tests::with_proc2;
    use super::*;

    fn vmcs12(eptp: u64, index: u16) -> Vmcs12 {
        let mut v = with_proc2(Proc2Ctls(0).with_pml(true).with_ept(true));
        v.write(EPT_POINTER, eptp);
        v.write(PML_ADDRESS, 0x7000);
        v.write(GUEST_PML_INDEX, index);
        v
    }

    const FLAGS: u64 = 0x1000 | 1 << 6;

    #[test]
    fn log_is_filled_from_its_end_until_the_index_wraps() {
        let mut v = vmcs12(FLAGS, 1);
        assert_eq!(append(&mut v, Gpa(0x1_2345)), Some((Gpa(0x7008), 0x1_2000)));
        assert_eq!(append(&mut v, Gpa(0x6000)), Some((Gpa(0x7000), 0x6000)));
        assert_eq!(v.read(GUEST_PML_INDEX), 0xffff);
        assert_eq!(state(&v), PageLog::Full);
        assert_eq!(append(&mut v, Gpa(0x7000)), None);
    }

    #[test]
    fn index_beyond_the_page_is_a_full_log() {
        assert_eq!(state(&vmcs12(FLAGS, 511)), PageLog::Room);
        assert_eq!(state(&vmcs12(FLAGS, 512)), PageLog::Full);
    }

    #[test]
    fn without_dirty_flags_or_the_control_nothing_is_logged() {
        assert_eq!(state(&vmcs12(0x1000, 511)), PageLog::Off);
        let mut v = vmcs12(FLAGS, 511);
        v.write(SECONDARY_VM_EXEC_CONTROL, Proc2Ctls(0).with_ept(true).0);
        assert_eq!(append(&mut v, Gpa(0)), None);
    }
}
