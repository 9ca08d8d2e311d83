// SPDX-License-Identifier: GPL-2.0

use super::super::caps::tests::full;
use super::super::check::tests::valid;
use super::super::vmcs12::REGION_SIZE;
use super::*;
use crate::outcome::Exception;

const ON: Gpa = Gpa(0x1000);
const CURRENT: Gpa = Gpa(0x2000);
const OTHER: Gpa = Gpa(0x3000);
const ROOT: Root = Root {
    vmxon: ON,
    current: Some(CURRENT),
};
const EMPTY: Root = Root {
    vmxon: ON,
    current: None,
};

fn env() -> Env {
    valid().env
}

fn cpu() -> Cpu {
    Cpu {
        cr0: 0x8000_0021,
        cr4: 0x2020,
        rflags: 2,
        efer: 0xd00,
        is_cs_long: true,
        cpl: 0,
        feature_control: 5,
    }
}

fn non_root() -> State {
    State::Root(ROOT).after_entry(RunPending::No)
}

fn check(insn: VmxInsn, state: State, cpu: Cpu) -> Result<(), Stopped> {
    precheck(insn, &state, &cpu, &full())
}

const UD: Result<(), Stopped> = Err(Stopped::Fault(Exception::UD));
const GP: Result<(), Stopped> = Err(Stopped::Fault(Exception::GP0));

#[test]
fn mode_faults_come_first_in_every_state() {
    let modes = [
        Cpu {
            cr0: 0x8000_0020,
            ..cpu()
        },
        Cpu {
            rflags: 0x2_0002,
            ..cpu()
        },
        Cpu {
            is_cs_long: false,
            ..cpu()
        },
    ];
    for insn in [
        VmxInsn::Vmxon,
        VmxInsn::Other,
        VmxInsn::Invept,
        VmxInsn::Invvpid,
    ] {
        for state in [State::VmxOff, State::Root(ROOT), non_root()] {
            for mode in modes {
                assert_eq!(
                    check(insn, state, Cpu { cpl: 3, ..mode }),
                    UD,
                    "{insn:?} {state:?}"
                );
            }
        }
    }
}

#[test]
fn outside_vmx_operation_all_but_vmxon_are_undefined() {
    for insn in [VmxInsn::Other, VmxInsn::Invept, VmxInsn::Invvpid] {
        assert_eq!(check(insn, State::VmxOff, Cpu { cpl: 3, ..cpu() }), UD);
        assert_eq!(check(insn, State::VmxOff.after_smi(), cpu()), UD);
    }
    assert_eq!(check(VmxInsn::Vmxon, State::VmxOff, cpu()), Ok(()));
    assert_eq!(
        check(VmxInsn::Vmxon, State::VmxOff, Cpu { cr4: 0x20, ..cpu() }),
        UD
    );
}

#[test]
fn user_mode_gets_gp_and_no_vmfail() {
    let user = Cpu { cpl: 3, ..cpu() };
    for insn in [
        VmxInsn::Vmxon,
        VmxInsn::Other,
        VmxInsn::Invept,
        VmxInsn::Invvpid,
    ] {
        assert_eq!(check(insn, State::Root(ROOT), user), GP);
    }
    assert_eq!(check(VmxInsn::Vmxon, State::VmxOff, user), GP);
}

#[test]
fn l2_exits_to_l1_before_the_privilege_check() {
    let user = Cpu { cpl: 3, ..cpu() };
    assert_eq!(
        check(VmxInsn::Other, non_root(), user),
        Err(Stopped::ExitToL1)
    );
    assert_eq!(
        check(VmxInsn::Vmxon, non_root(), user),
        Err(Stopped::ExitToL1)
    );
}

#[test]
fn vmxon_needs_fixed_bits_and_feature_control() {
    let check = |cpu| check(VmxInsn::Vmxon, State::VmxOff, cpu);
    assert_eq!(
        check(Cpu {
            cr0: 0x8000_0001,
            ..cpu()
        }),
        GP,
        "CR0.NE"
    );
    assert_eq!(check(Cpu { cr0: 0x21, ..cpu() }), GP, "CR0.PG");
    assert_eq!(
        check(Cpu {
            cr4: 0x2020 | 1 << 60,
            ..cpu()
        }),
        GP
    );
    assert_eq!(
        check(Cpu {
            feature_control: 4,
            ..cpu()
        }),
        GP,
        "not locked"
    );
    assert_eq!(
        check(Cpu {
            feature_control: 1,
            ..cpu()
        }),
        GP,
        "not enabled"
    );
    assert_eq!(
        check(Cpu {
            feature_control: 3,
            ..cpu()
        }),
        GP,
        "inside SMX only"
    );
}

#[test]
fn vmxon_in_root_fails_with_15_before_the_fixed_bits() {
    let broken = Cpu {
        feature_control: 0,
        ..cpu()
    };
    let error = VmInsnError::VmxonInRoot;
    let stop = |root| check(VmxInsn::Vmxon, State::Root(root), broken);
    assert_eq!(stop(ROOT), Err(Stopped::Fail(VmFail::Valid(error))));
    assert_eq!(stop(EMPTY), Err(Stopped::Fail(VmFail::Invalid)));
}

#[test]
fn invalidations_need_their_feature() {
    let state = State::Root(ROOT);
    let mut caps = full();
    caps.ept_vpid = caps.ept_vpid.with_invept(false);
    assert_eq!(precheck(VmxInsn::Invept, &state, &cpu(), &caps), UD);
    assert_eq!(precheck(VmxInsn::Invvpid, &state, &cpu(), &caps), Ok(()));
    caps.ept_vpid = caps.ept_vpid.with_invvpid(false);
    assert_eq!(precheck(VmxInsn::Invvpid, &state, &cpu(), &caps), UD);
}

#[test]
fn vmxon_checks_its_region() {
    assert_eq!(vmxon(ON, Some(REVISION), &env()), Ok(State::Root(EMPTY)));
    for (region, header) in [
        (Gpa(0x1008), Some(REVISION)),
        (Gpa(1 << 46), Some(REVISION)),
        (ON, Some(REVISION | 1 << 31)),
        (ON, Some(0)),
        (ON, None),
    ] {
        assert_eq!(
            vmxon(region, header, &env()),
            Err(VmFail::Invalid),
            "{region:?}"
        );
    }
}

#[test]
fn vmclear_fails_with_2_and_3() {
    let mut root = ROOT;
    let go = |root: &mut Root, at| vmclear(root, at, &env());
    let valid = |error| Err(VmFail::Valid(error));
    assert_eq!(
        go(&mut root, Gpa(0x2001)),
        valid(VmInsnError::VmclearInvalidAddress)
    );
    assert_eq!(
        go(&mut root, Gpa(1 << 46)),
        valid(VmInsnError::VmclearInvalidAddress)
    );
    assert_eq!(go(&mut root, ON), valid(VmInsnError::VmclearVmxonPointer));
    assert_eq!(root, ROOT);
    assert_eq!(go(&mut root, OTHER), Ok(Vmclear::Other));
    assert_eq!(go(&mut root, CURRENT), Ok(Vmclear::Current));
    assert_eq!(root, EMPTY);
    assert_eq!(
        go(&mut root, ON),
        Err(VmFail::Invalid),
        "no VMCS to hold the error"
    );
}

#[test]
fn vmptrld_fails_with_9_10_and_11() {
    let caps = full();
    let go = |root: &mut Root, at, header| vmptrld(root, at, header, &caps, &env());
    let valid = |error| Err(VmFail::Valid(error));
    let mut root = ROOT;
    let ok = Some(REVISION);
    assert_eq!(
        go(&mut root, Gpa(0x3010), ok),
        valid(VmInsnError::VmptrldInvalidAddress)
    );
    assert_eq!(
        go(&mut root, ON, ok),
        valid(VmInsnError::VmptrldVmxonPointer)
    );
    let revision = VmInsnError::VmptrldIncorrectRevision;
    assert_eq!(go(&mut root, OTHER, Some(REVISION ^ 1)), valid(revision));
    assert_eq!(
        go(&mut root, OTHER, None),
        valid(revision),
        "no memory reads as ones"
    );
    assert_eq!(root, ROOT);
    assert_eq!(go(&mut root, CURRENT, None), Ok(Vmptrld::Unchanged));
    assert_eq!(
        go(&mut root, OTHER, ok),
        Ok(Vmptrld::Switched { old: Some(CURRENT) })
    );
    assert_eq!(vmptrst(&root), OTHER.0);
    assert_eq!(vmptrst(&EMPTY), u64::MAX);
}

#[test]
fn shadow_vmcs_loads_only_with_shadowing() {
    let header = Some(REVISION | 1 << 31);
    let mut caps = full();
    let mut root = ROOT;
    assert!(vmptrld(&mut root, OTHER, header, &caps, &env()).is_ok());
    caps.procbased2.0 &= !(1 << (32 + 14));
    let mut root = ROOT;
    let error = VmInsnError::VmptrldIncorrectRevision;
    let loaded = vmptrld(&mut root, OTHER, header, &caps, &env());
    assert_eq!(loaded, Err(VmFail::Valid(error)));
}

#[test]
fn error_26_comes_before_4_and_5() {
    let blocked = MovSsBlocking::Blocked;
    let open = MovSsBlocking::Open;
    let valid = |error| Err(VmFail::Valid(error));
    let mut v = Vmcs12::new();
    let error_26 = valid(VmInsnError::EntryEventsBlockedByMovSs);
    assert_eq!(enter(EntryInsn::Vmlaunch, &ROOT, &v, open), Ok(()));
    assert_eq!(enter(EntryInsn::Vmlaunch, &ROOT, &v, blocked), error_26);
    assert_eq!(enter(EntryInsn::Vmresume, &ROOT, &v, blocked), error_26);
    let error_5 = valid(VmInsnError::VmresumeNonlaunchedVmcs);
    assert_eq!(enter(EntryInsn::Vmresume, &ROOT, &v, open), error_5);
    v.launch_state = LaunchState::Launched;
    let error_4 = valid(VmInsnError::VmlaunchNonclearVmcs);
    assert_eq!(enter(EntryInsn::Vmlaunch, &ROOT, &v, open), error_4);
    assert_eq!(enter(EntryInsn::Vmlaunch, &ROOT, &v, blocked), error_26);
    assert_eq!(enter(EntryInsn::Vmresume, &ROOT, &v, open), Ok(()));
}

#[test]
fn entry_without_an_ordinary_current_vmcs_fails_invalid() {
    let v = Vmcs12::new();
    let blocked = MovSsBlocking::Blocked;
    assert_eq!(
        enter(EntryInsn::Vmlaunch, &EMPTY, &v, blocked),
        Err(VmFail::Invalid)
    );
    let mut region = [0; REGION_SIZE];
    region[..4].copy_from_slice(&(REVISION | 1 << 31).to_le_bytes());
    let mut shadow = Vmcs12::new();
    shadow.load(&region);
    assert!(shadow.is_shadow() && shadow.revision() == REVISION);
    assert_eq!(
        enter(EntryInsn::Vmlaunch, &ROOT, &shadow, blocked),
        Err(VmFail::Invalid)
    );
}

#[test]
fn invept_checks_type_and_pointer() {
    let caps = full();
    let go = |kind, eptp| invept(kind, eptp, &caps, &env());
    let bad = Err(VmInsnError::InvalidInvalidationOperand);
    assert_eq!(go(1, 0x1_001e), Ok(Invept::Single { eptp: 0x1_001e }));
    assert_eq!(go(2, 0), Ok(Invept::All));
    for kind in [0, 3, 1 << 32 | 1, u64::MAX] {
        assert_eq!(go(kind, 0x1_001e), bad);
        assert!(!is_invept_type(kind, &caps));
    }
    for eptp in [0x1_0018, 0x1_0016, 0x1_011e, 1 << 46 | 0x1e] {
        assert_eq!(go(1, eptp), bad, "{eptp:#x}");
    }
}

#[test]
fn invvpid_checks_type_vpid_and_address() {
    let caps = full();
    let go = |kind, descriptor| invvpid(kind, descriptor, 48, &caps);
    let bad = Err(VmInsnError::InvalidInvalidationOperand);
    assert_eq!(
        go(0, [1, 0x5000]),
        Ok(Invvpid::Address {
            vpid: 1,
            address: Gva(0x5000)
        })
    );
    assert_eq!(go(0, [1, 0x8000_0000_0000]), bad);
    assert_eq!(go(1, [1, u64::MAX >> 1]), Ok(Invvpid::Single { vpid: 1 }));
    assert_eq!(go(2, [0, 0]), Ok(Invvpid::All));
    assert_eq!(
        go(2, [0x1_0000, 0]),
        bad,
        "bits 63:16 are reserved for every type"
    );
    assert_eq!(
        go(3, [7, 0]),
        Ok(Invvpid::SingleRetainingGlobals { vpid: 7 })
    );
    for kind in [0, 1, 3] {
        assert_eq!(go(kind, [0, 0]), bad, "VPID 0");
    }
    assert_eq!(go(4, [1, 0]), bad);
    assert_eq!(go(1 << 32, [1, 0]), bad);
}

#[test]
fn smi_leaves_l2_and_rsm_returns() {
    let smm = non_root().after_smi();
    assert_eq!(smm.root(), None);
    assert_eq!(smm.after_rsm(), (State::Root(ROOT), true));
    assert_eq!(
        State::Root(EMPTY).after_smi().after_rsm(),
        (State::Root(EMPTY), false)
    );
    assert_eq!(State::VmxOff.after_smi(), State::VmxOff);
}

#[test]
fn exit_returns_to_root_with_the_same_vmcs() {
    assert_eq!(non_root().after_exit(), State::Root(ROOT));
    assert_eq!(
        State::Root(EMPTY).after_entry(RunPending::Entry),
        State::Root(EMPTY)
    );
}

proptest::proptest! {
    /// INVEPT and the VM-entry checks agree on what an EPT pointer is.
    #[test]
    fn invept_and_entry_agree_on_eptp(low in 0_u64..0x1000, root in 0_u64..4, high in 44_u32..64) {
        let eptp = low | root << 12 | ((1_u64 << high) & !((1 << 46) - 1));
        for accessed_dirty in [false, true] {
            let mut f = valid();
            f.caps.ept_vpid = f.caps.ept_vpid.with_accessed_dirty(accessed_dirty);
            f.set(super::super::super::vmx::field::EPT_POINTER, eptp);
            let enters = super::super::check::vm_entry(&f.entry()).is_ok();
            proptest::prop_assert_eq!(is_eptp(eptp, &f.caps, &f.env), enters, "{:#x}", eptp);
        }
    }
}
