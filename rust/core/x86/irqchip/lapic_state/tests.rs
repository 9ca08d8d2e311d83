// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::x86::irqchip::apic_msg::{SoftwareState, TriggerMode};
use crate::x86::irqchip::lapic::{Config, Initiator};
use crate::x86::irqchip::lapic_regs::Registers;
use crate::x86::irqchip::lapic_timer::{BusCycle, TimerAction};
use proptest::prelude::*;

const ID: u32 = 0x123;

fn xapic() -> Lapic {
    let config = Config {
        x2apic_id: ID,
        has_x2apic: true,
        max_phys_addr_bits: 46,
        has_tsc_deadline: true,
        ..Config::default()
    };
    let mut lapic = Lapic::new(Registers::default(), config, BusCycle::default(), 0);
    let _ = lapic.write(reg::SVR.into(), 4, 0x1ff, &0);
    lapic
}

fn x2apic() -> Lapic {
    let mut lapic = xapic();
    let _ = lapic.set_base(0xfee0_0c00, Initiator::Guest).unwrap();
    lapic
}

fn saved(lapic: &Lapic, format: IdFormat, now: u64) -> LapicState {
    let mut state = [0; KVM_APIC_REG_SIZE];
    lapic.save(format, &now, &mut state);
    state
}

#[test]
fn state_has_registers_where_kvm_has_them() {
    let mut lapic = xapic();
    lapic.accept(0x41, TriggerMode::Edge);
    let _ = lapic.write(reg::TPR.into(), 4, 0x50, &0);
    let state = saved(&lapic, IdFormat::X2Apic, 0);
    assert_eq!(state[0x20..0x24], [0, 0, 0, 0x23]);
    assert_eq!(state[0xf0..0xf2], [0xff, 0x01]);
    assert_eq!(state[0x220], 2);
    assert_eq!((state[0x80], state[0xa0]), (0x50, 0x50));
}

#[test]
fn x2apic_id_is_saved_in_the_format_that_was_asked_for() {
    let lapic = x2apic();
    assert_eq!(word(&saved(&lapic, IdFormat::X2Apic, 0), reg::ID), ID);
    assert_eq!(word(&saved(&lapic, IdFormat::XApic, 0), reg::ID), ID << 24);
}

#[test]
fn x2apic_id_of_another_vcpu_is_refused_in_x2apic_format_only() {
    let mut lapic = x2apic();
    let mut state = saved(&lapic, IdFormat::X2Apic, 0);
    set_word(&mut state, reg::ID, 7);
    set_word(&mut state, reg::TPR, 0x20);
    assert_eq!(lapic.load(IdFormat::X2Apic, &0, &state), Err(IdMismatch));
    assert_eq!(lapic.tpr(), 0);
    set_word(&mut state, reg::LDR, 0);
    assert!(lapic.load(IdFormat::XApic, &0, &state).is_ok());
    assert_eq!(lapic.rdmsr(0x802, &0), Ok(ID.into()));
    assert_eq!(lapic.rdmsr(0x80d, &0), Ok(x2apic_ldr(ID).into()));
    assert_eq!(lapic.tpr(), 0x20);
}

#[test]
fn xapic_id_is_restored_as_the_guest_wrote_it() {
    let mut lapic = xapic();
    let mut state = saved(&lapic, IdFormat::X2Apic, 0);
    set_word(&mut state, reg::ID, 0x0900_0000);
    let effects = lapic.load(IdFormat::X2Apic, &0, &state).unwrap();
    assert!(effects.identity_changed && effects.recheck && effects.tpr_changed);
    assert_eq!(lapic.identity().xapic_id, 9);
}

#[test]
fn x2apic_icr_is_split_in_the_state_and_joined_again() {
    let mut lapic = x2apic();
    let _ = lapic.wrmsr(0x830, 0x1_0007_0000_4841, &0);
    let state = saved(&lapic, IdFormat::X2Apic, 0);
    assert_eq!(
        (word(&state, reg::ICR), word(&state, reg::ICR2)),
        (0x4841, 0x1_0007)
    );
    let mut other = x2apic();
    let mut state = state;
    set_word(&mut state, reg::ICR_X2APIC_HIGH, 0xdead);
    let _ = other.load(IdFormat::X2Apic, &0, &state);
    assert_eq!(other.rdmsr(0x830, &0), Ok(0x1_0007_0000_4841));
}

#[test]
fn restored_timer_goes_on_with_the_count_that_was_left() {
    let mut lapic = xapic();
    let _ = lapic.write(reg::TIMER_DIVIDE.into(), 4, 0b1011, &0);
    let _ = lapic.write(reg::LVT_TIMER.into(), 4, 0x41, &0);
    let _ = lapic.write(reg::TIMER_INITIAL.into(), 4, 100, &0);
    let state = saved(&lapic, IdFormat::XApic, 30);
    assert_eq!(word(&state, reg::TIMER_CURRENT), 70);
    let mut other = xapic();
    let effects = other.load(IdFormat::XApic, &1000, &state).unwrap();
    assert_eq!(
        effects.timer,
        Some(TimerAction::ArmNs { deadline_ns: 1070 })
    );
    assert_eq!(other.read(reg::TIMER_CURRENT.into(), 4, &1020).value, 50);
}

#[test]
fn restored_software_state_and_version_are_ours() {
    let mut lapic = xapic();
    let mut state = saved(&lapic, IdFormat::XApic, 0);
    set_word(&mut state, reg::SVR, 0xff);
    set_word(&mut state, reg::VERSION, 0x1234);
    let effects = lapic.load(IdFormat::XApic, &0, &state).unwrap();
    assert_eq!(effects.software, Some(SoftwareState::Disabled));
    assert_eq!(lapic.read(reg::VERSION.into(), 4, &0).value, 0x0005_0014);
}

proptest! {
    #[test]
    fn loaded_state_is_saved_again(bytes in prop::collection::vec(any::<u8>(), KVM_APIC_REG_SIZE)) {
        let mut state: LapicState = bytes.try_into().unwrap();
        let mut lapic = xapic();
        let _ = lapic.load(IdFormat::XApic, &0, &state);
        let again = saved(&lapic, IdFormat::XApic, 0);
        // These are computed.
        for offset in [reg::VERSION, reg::PPR, reg::TIMER_CURRENT] {
            set_word(&mut state, offset, word(&again, offset));
        }
        prop_assert_eq!(again, state);
    }
}
