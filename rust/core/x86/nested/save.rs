// SPDX-License-Identifier: GPL-2.0

//! The saved nested state of `KVM_GET_NESTED_STATE` and `KVM_SET_NESTED_STATE`.
//!
//! A blob is a header of 128 bytes, then vmcs12 and, if L2 has one, the shadow vmcs12 of L2, each
//! of 4096 bytes in the layout of [`vmcs12`](super::vmcs12). [`parse`] believes nothing: it turns a
//! header into a [`Saved`] that holds only possible combinations. The caller then loads the vmcs12,
//! whose revision must be [`REVISION`](super::vmcs12::REVISION); with L2 running, it is checked like
//! at a VM entry ([`vm_entry`](super::check::vm_entry)). Any failure is `EINVAL`.

use super::super::vmx::field::*;
use super::merge::proc2_12;
use super::state::{
    NonRoot,
    Root,
    RunPending,
    State, //
};
use super::vmcs12::{
    Vmcs12,
    REGION_SIZE, //
};
use crate::addr::Gpa;

/// Size of the header in bytes.
pub const HEADER_SIZE: usize = 128;
/// Offset of vmcs12 in bytes.
pub const OFFSET_VMCS12: usize = HEADER_SIZE;
/// Offset of the shadow vmcs12 in bytes.
pub const OFFSET_SHADOW_VMCS12: usize = OFFSET_VMCS12 + REGION_SIZE;
/// Size of the largest blob in bytes.
pub const MAX_SIZE: usize = OFFSET_SHADOW_VMCS12 + REGION_SIZE;

const FORMAT_VMX: u16 = 0;
const INVALID_GPA: u64 = u64::MAX;

const FLAGS_GUEST_MODE: u16 = 0x0001;
const FLAGS_RUN_PENDING: u16 = 0x0002;
const FLAGS_EVMCS: u16 = 0x0004;
const FLAGS_MTF_PENDING: u16 = 0x0008;
/// For SVM only, but taken (and ignored) with a VMXON region.
const FLAGS_GIF_SET: u16 = 0x0100;
const FLAGS_KNOWN: u16 =
    FLAGS_GUEST_MODE | FLAGS_RUN_PENDING | FLAGS_EVMCS | FLAGS_MTF_PENDING | FLAGS_GIF_SET;

const SMM_GUEST_MODE: u16 = 0x0001;
const SMM_VMXON: u16 = 0x0002;

const VMX_TIMER_DEADLINE: u32 = 0x0000_0001;

/// The header of a blob, field by field as `struct kvm_nested_state` has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// `KVM_STATE_NESTED_*` flags.
    pub flags: u16,
    /// `KVM_STATE_NESTED_FORMAT_*`.
    pub format: u16,
    /// Size of the blob in bytes.
    pub size: u32,
    /// Address of the VMXON region, or all ones.
    pub vmxon_pa: u64,
    /// Address of the current VMCS, or all ones.
    pub vmcs12_pa: u64,
    /// `KVM_STATE_NESTED_SMM_*` flags.
    pub smm_flags: u16,
    /// `KVM_STATE_VMX_*` flags.
    pub vmx_flags: u32,
    /// TSC of L1 at which its preemption timer expires.
    pub preemption_timer_deadline: u64,
}

impl Header {
    /// Reads a header.
    pub fn from_bytes(bytes: &[u8; HEADER_SIZE]) -> Self {
        Self {
            flags: u16::from_le_bytes(at(bytes, 0)),
            format: u16::from_le_bytes(at(bytes, 2)),
            size: u32::from_le_bytes(at(bytes, 4)),
            vmxon_pa: u64::from_le_bytes(at(bytes, 8)),
            vmcs12_pa: u64::from_le_bytes(at(bytes, 16)),
            smm_flags: u16::from_le_bytes(at(bytes, 24)),
            vmx_flags: u32::from_le_bytes(at(bytes, 28)),
            preemption_timer_deadline: u64::from_le_bytes(at(bytes, 32)),
        }
    }

    /// Writes a header; padding is 0.
    pub fn to_bytes(&self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        put(&mut bytes, 0, &self.flags.to_le_bytes());
        put(&mut bytes, 2, &self.format.to_le_bytes());
        put(&mut bytes, 4, &self.size.to_le_bytes());
        put(&mut bytes, 8, &self.vmxon_pa.to_le_bytes());
        put(&mut bytes, 16, &self.vmcs12_pa.to_le_bytes());
        put(&mut bytes, 24, &self.smm_flags.to_le_bytes());
        put(&mut bytes, 28, &self.vmx_flags.to_le_bytes());
        put(
            &mut bytes,
            32,
            &self.preemption_timer_deadline.to_le_bytes(),
        );
        bytes
    }
}

fn at<const N: usize>(bytes: &[u8; HEADER_SIZE], offset: usize) -> [u8; N] {
    let chunk = bytes.get(offset..).and_then(|tail| tail.first_chunk());
    chunk.copied().unwrap_or([0; N])
}

fn put(bytes: &mut [u8; HEADER_SIZE], offset: usize, value: &[u8]) {
    let target = bytes
        .get_mut(offset..)
        .and_then(|tail| tail.get_mut(..value.len()));
    if let Some(target) = target {
        target.copy_from_slice(value);
    }
}

/// A blob that cannot be restored: `EINVAL`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Invalid;

/// What the vCPU is, as far as a blob must fit it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// CPUID shows VMX.
    pub has_vmx: bool,
    /// Width of physical addresses in bits.
    pub phys_bits: u8,
    /// The vCPU is in SMM.
    pub is_in_smm: bool,
}

/// What to restore.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Saved {
    /// The VMX mode to be in; with L2 running, after vmcs12 has passed the checks.
    pub state: State,
    /// The blob holds a vmcs12.
    pub has_vmcs12: bool,
    /// The blob is long enough to hold a shadow vmcs12.
    pub has_shadow_vmcs12: bool,
}

fn require(condition: bool) -> Result<(), Invalid> {
    if condition {
        Ok(())
    } else {
        Err(Invalid)
    }
}

/// Checks a header and turns it into what to restore. Enlightened VMCSs are not supported.
///
/// # Errors
///
/// The header contradicts itself or the vCPU.
pub fn parse(header: &Header, target: &Target) -> Result<Saved, Invalid> {
    let has_flag = |flag| header.flags & flag != 0;
    require(header.format == FORMAT_VMX && header.flags & !FLAGS_KNOWN == 0)?;
    let size = usize::try_from(header.size).map_err(|_| Invalid)?;
    require(size >= HEADER_SIZE)?;
    require(!has_flag(FLAGS_RUN_PENDING) || has_flag(FLAGS_GUEST_MODE))?;
    if header.vmxon_pa == INVALID_GPA {
        let is_off = header.smm_flags == 0
            && header.vmcs12_pa == INVALID_GPA
            && header.vmx_flags & !VMX_TIMER_DEADLINE == 0
            && header.flags == 0;
        require(is_off)?;
        return Ok(Saved {
            state: State::VmxOff,
            has_vmcs12: false,
            has_shadow_vmcs12: false,
        });
    }
    let is_region = |address: u64| {
        let beyond = address
            .checked_shr(u32::from(target.phys_bits))
            .unwrap_or(0);
        address & 0xfff == 0 && beyond == 0
    };
    require(target.has_vmx && is_region(header.vmxon_pa) && !has_flag(FLAGS_EVMCS))?;
    require(header.vmx_flags & !VMX_TIMER_DEADLINE == 0)?;
    check_smm(header, target)?;
    let has_vmcs12 = size >= OFFSET_SHADOW_VMCS12;
    let has_current = header.vmcs12_pa != INVALID_GPA;
    // A VMCS needs its contents; contents need a VMCS.
    require(has_vmcs12 == has_current)?;
    require(has_current || !has_flag(FLAGS_GUEST_MODE))?;
    require(!has_current || (is_region(header.vmcs12_pa) && header.vmcs12_pa != header.vmxon_pa))?;
    Ok(Saved {
        state: state(header),
        has_vmcs12,
        has_shadow_vmcs12: size >= MAX_SIZE,
    })
}

/// SMM has left VMX operation for the time being; outside SMM its flags mean nothing.
fn check_smm(header: &Header, target: &Target) -> Result<(), Invalid> {
    let smm = header.smm_flags;
    require(smm & !(SMM_GUEST_MODE | SMM_VMXON) == 0)?;
    require(smm & SMM_GUEST_MODE == 0 || smm & SMM_VMXON != 0)?;
    if target.is_in_smm {
        require(header.flags & (FLAGS_GUEST_MODE | FLAGS_RUN_PENDING) == 0)
    } else {
        require(smm == 0)
    }
}

/// The state that a consistent header with a VMXON region says.
fn state(header: &Header) -> State {
    let vmxon = Gpa(header.vmxon_pa);
    let current = Some(Gpa(header.vmcs12_pa)).filter(|at| at.0 != INVALID_GPA);
    let root = Root { vmxon, current };
    if header.smm_flags & SMM_VMXON != 0 {
        return State::Smm {
            root,
            resumes_l2: header.smm_flags & SMM_GUEST_MODE != 0,
        };
    }
    match current {
        Some(current) if header.flags & FLAGS_GUEST_MODE != 0 => {
            let is_pending = header.flags & FLAGS_RUN_PENDING != 0;
            let has_deadline = header.vmx_flags & VMX_TIMER_DEADLINE != 0;
            State::NonRoot(NonRoot {
                vmxon,
                current,
                run_pending: if is_pending {
                    RunPending::Restored
                } else {
                    RunPending::No
                },
                mtf_pending: header.flags & FLAGS_MTF_PENDING != 0,
                timer_deadline: has_deadline.then_some(header.preemption_timer_deadline),
            })
        }
        _ => State::Root(root),
    }
}

/// Returns whether a blob with `vmcs12` current and L2 running holds a shadow vmcs12 as well.
pub fn needs_shadow_vmcs12(vmcs12: &Vmcs12) -> bool {
    proc2_12(vmcs12).vmcs_shadowing() && vmcs12.read(VMCS_LINK_POINTER) != INVALID_GPA
}

/// Makes the header of a blob; `vmcs12` is the current one, if there is one. The size in it says
/// which parts follow.
pub fn header(state: &State, vmcs12: Option<&Vmcs12>) -> Header {
    let mut header = Header {
        flags: 0,
        format: FORMAT_VMX,
        size: 0,
        vmxon_pa: INVALID_GPA,
        vmcs12_pa: INVALID_GPA,
        smm_flags: 0,
        vmx_flags: 0,
        preemption_timer_deadline: 0,
    };
    let root = match state {
        State::Smm { root, resumes_l2 } => {
            header.smm_flags = SMM_VMXON | if *resumes_l2 { SMM_GUEST_MODE } else { 0 };
            Some(*root)
        }
        State::VmxOff | State::Root(_) | State::NonRoot(_) => state.root(),
    };
    let mut size = HEADER_SIZE;
    if let Some(root) = root {
        header.vmxon_pa = root.vmxon.0;
        if let (Some(current), Some(_)) = (root.current, vmcs12) {
            header.vmcs12_pa = current.0;
            size = OFFSET_SHADOW_VMCS12;
        }
    }
    if let State::NonRoot(l2) = state {
        header.flags |= FLAGS_GUEST_MODE;
        if l2.run_pending != RunPending::No {
            header.flags |= FLAGS_RUN_PENDING;
        }
        if l2.mtf_pending {
            header.flags |= FLAGS_MTF_PENDING;
        }
        if let Some(deadline) = l2.timer_deadline {
            header.vmx_flags |= VMX_TIMER_DEADLINE;
            header.preemption_timer_deadline = deadline;
        }
        if vmcs12.is_some_and(needs_shadow_vmcs12) {
            size = MAX_SIZE;
        }
    }
    header.size = u32::try_from(size).unwrap_or(0);
    header
}

#[cfg(test)]
mod tests {
    use super::super::super::vmx::ctls::Proc2Ctls;
    use super::super::merge::tests::with_proc2;
    use super::*;
    use proptest::prelude::*;

    const TARGET: Target = Target {
        has_vmx: true,
        phys_bits: 46,
        is_in_smm: false,
    };
    const SMM: Target = Target {
        is_in_smm: true,
        ..TARGET
    };
    const ROOT: Root = Root {
        vmxon: Gpa(0x1000),
        current: Some(Gpa(0x2000)),
    };
    const L2: NonRoot = NonRoot {
        vmxon: Gpa(0x1000),
        current: Gpa(0x2000),
        run_pending: RunPending::No,
        mtf_pending: false,
        timer_deadline: None,
    };

    fn non_root() -> Header {
        header(&State::NonRoot(L2), Some(&Vmcs12::new()))
    }

    fn is_bad(header: Header, target: Target) -> bool {
        parse(&header, &target).is_err()
    }

    #[test]
    fn layout_is_that_of_the_abi() {
        let l2 = NonRoot {
            run_pending: RunPending::Entry,
            mtf_pending: true,
            timer_deadline: Some(0x1122_3344_5566_7788),
            ..L2
        };
        let bytes = header(&State::NonRoot(l2), Some(&Vmcs12::new())).to_bytes();
        assert_eq!(bytes[..8], [0x0b, 0, 0, 0, 0x80, 0x10, 0, 0]);
        assert_eq!(bytes[8..16], 0x1000_u64.to_le_bytes());
        assert_eq!(bytes[16..24], 0x2000_u64.to_le_bytes());
        assert_eq!(bytes[24..32], [0, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(bytes[32..40], 0x1122_3344_5566_7788_u64.to_le_bytes());
        assert_eq!(MAX_SIZE, 128 + 2 * 4096);
    }

    #[test]
    fn vmx_off_is_all_ones() {
        let h = header(&State::VmxOff, None);
        assert_eq!(
            (h.vmxon_pa, h.vmcs12_pa, h.size, h.flags),
            (u64::MAX, u64::MAX, 128, 0)
        );
        assert_eq!(parse(&h, &TARGET).unwrap().state, State::VmxOff);
        let no_vmx = Target {
            has_vmx: false,
            ..TARGET
        };
        assert!(
            !is_bad(h, no_vmx),
            "a guest without VMX restores that it has none"
        );
        for bad in [
            Header {
                vmcs12_pa: 0x2000,
                ..h
            },
            Header {
                smm_flags: SMM_VMXON,
                ..h
            },
            Header {
                flags: FLAGS_GUEST_MODE,
                ..h
            },
            Header {
                flags: FLAGS_GIF_SET,
                ..h
            },
            // KVM takes it where enlightened VMCSs are enabled.
            Header {
                flags: FLAGS_EVMCS,
                ..h
            },
        ] {
            assert!(is_bad(bad, TARGET), "{bad:?}");
        }
    }

    #[test]
    fn every_state_survives_a_round_trip() {
        let empty = Root {
            current: None,
            ..ROOT
        };
        let pending = NonRoot {
            run_pending: RunPending::Restored,
            ..L2
        };
        let timer = NonRoot {
            timer_deadline: Some(5),
            mtf_pending: true,
            ..L2
        };
        for (state, target) in [
            (State::Root(empty), TARGET),
            (State::Root(ROOT), TARGET),
            (State::NonRoot(L2), TARGET),
            (State::NonRoot(pending), TARGET),
            (State::NonRoot(timer), TARGET),
            (
                State::Smm {
                    root: ROOT,
                    resumes_l2: true,
                },
                SMM,
            ),
            (
                State::Smm {
                    root: empty,
                    resumes_l2: false,
                },
                SMM,
            ),
        ] {
            let bytes = header(&state, Some(&Vmcs12::new())).to_bytes();
            let saved = parse(&Header::from_bytes(&bytes), &target).unwrap();
            assert_eq!(saved.state, state);
        }
    }

    #[test]
    fn contradictions_are_invalid() {
        let h = non_root();
        for bad in [
            Header { format: 1, ..h },
            Header {
                flags: h.flags | 0x10,
                ..h
            },
            Header {
                flags: h.flags | FLAGS_EVMCS,
                ..h
            },
            Header {
                flags: FLAGS_RUN_PENDING,
                ..h
            },
            Header { size: 127, ..h },
            Header {
                size: 128 + 4095,
                ..h
            },
            Header {
                vmxon_pa: 0x1008,
                ..h
            },
            Header {
                vmxon_pa: 1 << 46,
                ..h
            },
            Header {
                vmcs12_pa: 0x1000,
                ..h
            },
            Header {
                vmcs12_pa: 0x2010,
                ..h
            },
            Header {
                vmcs12_pa: 1 << 46,
                ..h
            },
            Header {
                vmcs12_pa: INVALID_GPA,
                ..h
            },
            Header { vmx_flags: 2, ..h },
            Header {
                smm_flags: SMM_VMXON,
                ..h
            },
        ] {
            assert!(is_bad(bad, TARGET), "{bad:?}");
        }
        assert!(is_bad(
            h,
            Target {
                has_vmx: false,
                ..TARGET
            }
        ));
        assert!(is_bad(h, SMM), "SMM cannot be in guest mode");
    }

    #[test]
    fn smm_flags_need_smm_and_each_other() {
        let h = header(
            &State::Smm {
                root: ROOT,
                resumes_l2: true,
            },
            Some(&Vmcs12::new()),
        );
        assert_eq!(h.smm_flags, 3);
        assert!(!is_bad(h, SMM) && is_bad(h, TARGET));
        assert!(is_bad(
            Header {
                smm_flags: SMM_GUEST_MODE,
                ..h
            },
            SMM
        ));
        assert!(is_bad(Header { smm_flags: 7, ..h }, SMM));
    }

    #[test]
    fn shadow_vmcs12_follows_if_l2_has_one() {
        let mut v = with_proc2(Proc2Ctls(0).with_vmcs_shadowing(true));
        v.write(VMCS_LINK_POINTER, 0x9000);
        let size = |v: &Vmcs12| header(&State::NonRoot(L2), Some(v)).size as usize;
        assert_eq!(size(&v), MAX_SIZE);
        assert_eq!(
            header(&State::Root(ROOT), Some(&v)).size as usize,
            OFFSET_SHADOW_VMCS12
        );
        v.write(VMCS_LINK_POINTER, u64::MAX);
        assert_eq!(size(&v), OFFSET_SHADOW_VMCS12);
    }

    proptest! {
        /// Whatever userspace hands in: no panic, and what is accepted is consistent.
        #[test]
        fn accepted_headers_are_consistent(
            flags in 0_u16..0x10, size in prop::sample::select(vec![0, 128, 4223, 4224, 8320, u32::MAX]),
            vmxon_pa in prop::sample::select(vec![0, 0x1000, 0x1001, 1 << 46, u64::MAX]),
            vmcs12_pa in prop::sample::select(vec![0, 0x1000, 0x2000, 0x2001, u64::MAX]),
            smm_flags in 0_u16..5, vmx_flags in 0_u32..3, is_in_smm: bool,
        ) {
            let h = Header {
                flags, format: 0, size, vmxon_pa, vmcs12_pa, smm_flags, vmx_flags,
                preemption_timer_deadline: 1,
            };
            if let Ok(saved) = parse(&h, &Target { is_in_smm, ..TARGET }) {
                let root = match saved.state {
                    State::Smm { root, .. } => {
                        prop_assert!(is_in_smm);
                        Some(root)
                    }
                    other => other.root(),
                };
                prop_assert_eq!(saved.has_vmcs12, root.is_some_and(|r| r.current.is_some()));
                prop_assert!(!saved.state.is_non_root() || saved.has_vmcs12);
                prop_assert!(!saved.has_shadow_vmcs12 || size >= 8320);
            }
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), HEADER_SIZE)) {
            let h = Header::from_bytes(bytes.as_slice().try_into().unwrap());
            let _ = parse(&h, &TARGET);
            prop_assert_eq!(Header::from_bytes(&h.to_bytes()), h);
        }
    }
}
