// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::x86::irqchip::apic_msg::{DestMode, Shorthand};
use crate::x86::irqchip::lapic_regs::esr;
use proptest::prelude::*;
use std::collections::BTreeSet;

const NOW: u64 = 1_000;
const GP: Result<Effects, Exception> = Err(Exception::GP0);

fn config() -> Config {
    Config {
        x2apic_id: 5,
        is_bsp: true,
        has_cmci: true,
        has_x2apic: true,
        has_tsc_deadline: true,
        max_phys_addr_bits: 46,
        ..Config::default()
    }
}

/// An APIC after power-up.
fn cold(config: Config) -> Lapic {
    Lapic::new(Registers::default(), config, BusCycle::default(), 0)
}

/// A software-enabled APIC in xAPIC mode.
fn xapic() -> Lapic {
    let mut lapic = cold(config());
    let _ = write(&mut lapic, reg::SVR, 0x1ff);
    lapic
}

/// A software-enabled APIC in x2APIC mode.
fn x2apic() -> Lapic {
    let mut lapic = xapic();
    let _ = lapic
        .set_base(lapic.base() | 0x400, Initiator::Guest)
        .unwrap();
    lapic
}

fn write(lapic: &mut Lapic, offset: u16, value: u32) -> Effects {
    lapic.write(offset.into(), 4, value.into(), &NOW)
}

fn read(lapic: &mut Lapic, offset: u16) -> u64 {
    lapic.read(offset.into(), 4, &NOW).value
}

fn msr(offset: u16) -> u32 {
    0x800 + u32::from(offset >> 4)
}

#[test]
fn an_end_is_silent_where_nothing_waits_for_it() {
    let mut lapic = xapic();
    assert_eq!(lapic.silent_end(), None);
    serve(&mut lapic, 0x41);
    assert_eq!(lapic.silent_end(), Some(0x41));
    lapic.accept(0x31, TriggerMode::Edge);
    assert_eq!(lapic.silent_end(), None, "one that waits");
    let mut lapic = xapic();
    lapic.accept(0x41, TriggerMode::Level);
    lapic.ack(0x41);
    assert_eq!(lapic.silent_end(), None, "level-triggered");
    serve(&mut lapic, 0x51);
    assert_eq!(lapic.silent_end(), Some(0x51), "over another");
}

/// Puts `vector` in service.
fn serve(lapic: &mut Lapic, vector: u8) {
    lapic.accept(vector, TriggerMode::Edge);
    lapic.ack(vector);
}

#[test]
fn lapic_delivers_the_highest_vector_above_the_ppr() {
    let mut lapic = xapic();
    assert_eq!(lapic.highest_pending(), None);
    lapic.accept(0x31, TriggerMode::Edge);
    lapic.accept(0x52, TriggerMode::Edge);
    assert_eq!(lapic.highest_pending(), Some(0x52));
    lapic.ack(0x52);
    assert_eq!(lapic.highest_pending(), None);
    // The same class waits, a higher one does not.
    lapic.accept(0x5f, TriggerMode::Edge);
    assert_eq!(lapic.highest_pending(), None);
    lapic.accept(0x60, TriggerMode::Edge);
    assert_eq!(lapic.highest_pending(), Some(0x60));
}

#[test]
fn lapic_eoi_clears_highest_isr_only() {
    let mut lapic = xapic();
    serve(&mut lapic, 0x31);
    serve(&mut lapic, 0x52);
    let effects = write(&mut lapic, reg::EOI, 0);
    assert_eq!(effects.eoi.map(|eoi| eoi.vector), Some(0x52));
    assert!(effects.recheck);
    assert_eq!(lapic.highest_isr(), Some(0x31));
    assert_eq!(
        write(&mut lapic, reg::EOI, 0).eoi.map(|eoi| eoi.vector),
        Some(0x31)
    );
    assert_eq!(write(&mut lapic, reg::EOI, 0), Effects::default());
}

#[test]
fn lapic_eoi_tells_the_trigger_mode_of_the_last_acceptance() {
    let mut lapic = xapic();
    for trigger in [TriggerMode::Level, TriggerMode::Edge] {
        lapic.accept(0x41, trigger);
        lapic.ack(0x41);
        assert!(lapic.has_pending_eoi(0x41));
        assert_eq!(lapic.eoi().eoi.unwrap().trigger, trigger);
        assert!(!lapic.has_pending_eoi(0x41));
    }
}

#[test]
fn lapic_eoi_broadcast_is_suppressed_as_the_capability_says() {
    let rows = [
        (SuppressEoi::Quirked, IoApicPlace::Userspace, true, false),
        (SuppressEoi::Quirked, IoApicPlace::Kernel, false, false),
        (SuppressEoi::Enabled, IoApicPlace::Userspace, true, true),
        (SuppressEoi::Disabled, IoApicPlace::Userspace, false, false),
    ];
    for (suppress_eoi, io_apic, is_offered, is_suppressed) in rows {
        let mut lapic = cold(Config {
            suppress_eoi,
            io_apic,
            ..config()
        });
        assert_eq!(read(&mut lapic, reg::VERSION) >> 24 & 1 == 1, is_offered);
        let _ = write(&mut lapic, reg::SVR, 0x11ff);
        assert_eq!(read(&mut lapic, reg::SVR) >> 12 & 1 == 1, is_offered);
        serve(&mut lapic, 0x41);
        assert_eq!(
            lapic.eoi().eoi.unwrap().is_suppressed,
            is_suppressed,
            "{suppress_eoi:?}"
        );
    }
}

#[test]
fn lapic_eoi_suppression_that_is_restored_counts_with_our_io_apic() {
    let mut lapic = cold(Config {
        io_apic: IoApicPlace::Kernel,
        ..config()
    });
    lapic.page_mut().set(reg::SVR, 0x11ff);
    assert!(lapic.ended(0x41).is_suppressed);
}

#[test]
fn lapic_ppr_is_the_greater_class_of_tpr_and_isr() {
    let mut lapic = xapic();
    let _ = write(&mut lapic, reg::TPR, 0x47);
    assert_eq!(lapic.ppr(), 0x47);
    serve(&mut lapic, 0x52);
    assert_eq!(read(&mut lapic, reg::PPR), 0x50);
    let _ = write(&mut lapic, reg::TPR, 0x63);
    assert_eq!(read(&mut lapic, reg::PPR), 0x63);
}

#[test]
fn lapic_cr8_is_the_class_of_the_tpr() {
    let mut lapic = xapic();
    let effects = lapic.set_cr8(9);
    assert!(effects.tpr_changed && effects.recheck);
    assert_eq!(read(&mut lapic, reg::TPR), 0x90);
    let _ = write(&mut lapic, reg::TPR, 0x35);
    assert_eq!(lapic.cr8(), 3);
}

#[test]
fn lapic_tpr_threshold_waits_for_the_class_that_is_held_back() {
    let mut lapic = xapic();
    let _ = lapic.set_cr8(6);
    assert_eq!(lapic.tpr_threshold(), 0);
    lapic.accept(0x52, TriggerMode::Edge);
    assert_eq!(lapic.tpr_threshold(), 5);
    let _ = lapic.set_cr8(4);
    assert_eq!(lapic.tpr_threshold(), 0);
}

#[test]
fn lapic_refuses_vectors_0_to_15_and_says_so_in_the_esr() {
    let mut lapic = xapic();
    assert_eq!(lapic.accept(15, TriggerMode::Edge), Acceptance::Illegal);
    assert_eq!(lapic.highest_irr(), None);
    assert_eq!(read(&mut lapic, reg::ESR), 0);
    let _ = write(&mut lapic, reg::ESR, 0);
    assert_eq!(
        read(&mut lapic, reg::ESR),
        u64::from(esr::RECEIVE_ILLEGAL_VECTOR)
    );
    let _ = write(&mut lapic, reg::ESR, 0);
    assert_eq!(read(&mut lapic, reg::ESR), 0);
}

#[test]
fn lapic_error_interrupt_comes_once_until_the_esr_is_written() {
    let mut lapic = xapic();
    let _ = write(&mut lapic, reg::LVT_ERROR, 0xfe);
    let effects = lapic.read(0x40, 4, &NOW).effects;
    assert!(effects.recheck);
    assert_eq!(lapic.highest_pending(), Some(0xfe));
    lapic.ack(0xfe);
    let _ = lapic.eoi();
    let _ = write(&mut lapic, 0x40, 0);
    assert_eq!(lapic.highest_pending(), None);
    let _ = write(&mut lapic, reg::ESR, 0);
    assert_eq!(
        read(&mut lapic, reg::ESR),
        u64::from(esr::ILLEGAL_REGISTER_ADDRESS)
    );
    let _ = write(&mut lapic, 0x40, 0);
    assert_eq!(lapic.highest_pending(), Some(0xfe));
}

#[test]
fn lapic_error_vector_that_is_illegal_itself_ends_there() {
    let mut lapic = xapic();
    let _ = write(&mut lapic, reg::LVT_ERROR, 3);
    let _ = write(&mut lapic, 0x40, 0);
    assert_eq!(lapic.highest_irr(), None);
}

#[test]
fn lapic_accepts_a_pending_vector_once() {
    let mut lapic = xapic();
    assert_eq!(lapic.accept(0x41, TriggerMode::Edge), Acceptance::Pending);
    assert_eq!(lapic.accept(0x41, TriggerMode::Edge), Acceptance::Coalesced);
    lapic.ack(0x41);
    assert_eq!(lapic.accept(0x41, TriggerMode::Edge), Acceptance::Pending);
}

#[test]
fn lapic_globally_disabled_delivers_nothing_but_takes_the_pic() {
    let mut lapic = xapic();
    lapic.accept(0x41, TriggerMode::Edge);
    let _ = write(&mut lapic, reg::LVT_LINT0, 0x10000);
    assert!(!lapic.accepts_extint());
    let _ = lapic
        .set_base(APIC_DEFAULT_PHYS_BASE, Initiator::Guest)
        .unwrap();
    assert_eq!(lapic.highest_pending(), None);
    assert!(lapic.accepts_extint());
}

#[test]
fn lapic_lint0_decides_over_the_pic() {
    let mut lapic = xapic();
    let rows = [
        (0x700, true, false),
        (0x10700, false, false),
        (0x400, false, true),
        (0x10400, false, false),
        (0x31, false, false),
    ];
    for (entry, extint, nmi) in rows {
        assert!(write(&mut lapic, reg::LVT_LINT0, entry).recheck);
        assert_eq!(lapic.accepts_extint(), extint, "{entry:#x}");
        assert_eq!(lapic.lint0_is_nmi(), nmi, "{entry:#x}");
    }
}

#[test]
fn lapic_lvt_delivers_by_its_mode() {
    let mut lapic = xapic();
    let rows = [
        (0x0_0041, LocalInterrupt::Vector),
        (0x0_0005, LocalInterrupt::Illegal),
        (0x1_0041, LocalInterrupt::Masked),
        (0x0_0200, LocalInterrupt::Smi),
        (0x0_0300, LocalInterrupt::Masked),
        (0x0_0400, LocalInterrupt::Nmi),
        (0x0_0500, LocalInterrupt::Init),
        (0x0_0700, LocalInterrupt::ExtInt),
    ];
    for (entry, outcome) in rows {
        let _ = write(&mut lapic, reg::LVT_LINT1, entry);
        assert_eq!(lapic.raise(Lvt::Lint1), outcome, "{entry:#x}");
    }
    assert_eq!(lapic.highest_irr(), Some(0x41));
}

#[test]
fn lapic_pin_can_be_level_triggered() {
    let mut lapic = xapic();
    let _ = write(&mut lapic, reg::LVT_LINT1, 0x8041);
    let _ = lapic.raise(Lvt::Lint1);
    lapic.ack(0x41);
    assert_eq!(lapic.eoi().eoi.unwrap().trigger, TriggerMode::Level);
}

#[test]
fn lapic_performance_interrupt_masks_its_entry() {
    let mut lapic = xapic();
    let _ = write(&mut lapic, reg::LVT_PMC, 0x400);
    assert_eq!(lapic.raise(Lvt::Pmc), LocalInterrupt::Nmi);
    assert_eq!(read(&mut lapic, reg::LVT_PMC), 0x10400);
    assert_eq!(lapic.raise(Lvt::Pmc), LocalInterrupt::Masked);
}

#[test]
fn lapic_lvt_keeps_only_the_bits_that_the_entry_has() {
    let mut lapic = xapic();
    let rows = [
        (reg::LVT_TIMER, 0x7_00ff),
        (reg::LVT_THERMAL, 0x1_07ff),
        (reg::LVT_PMC, 0x1_07ff),
        (reg::LVT_LINT0, 0x1_a7ff),
        (reg::LVT_LINT1, 0x1_a7ff),
        (reg::LVT_ERROR, 0x1_00ff),
        (reg::LVT_CMCI, 0x1_07ff),
    ];
    for (offset, bits) in rows {
        let _ = write(&mut lapic, offset, u32::MAX);
        assert_eq!(read(&mut lapic, offset), bits, "{offset:#x}");
    }
    lapic.configure(Config {
        has_tsc_deadline: false,
        ..config()
    });
    let _ = write(&mut lapic, reg::LVT_TIMER, u32::MAX);
    assert_eq!(read(&mut lapic, reg::LVT_TIMER), 0x3_00ff);
}

#[test]
fn lapic_without_cmci_has_no_such_entry() {
    let mut lapic = cold(Config {
        has_cmci: false,
        ..config()
    });
    let _ = write(&mut lapic, reg::SVR, 0x1ff);
    assert_eq!(read(&mut lapic, reg::VERSION), 0x0005_0014);
    let _ = write(&mut lapic, reg::LVT_CMCI, 0x41);
    assert_eq!(read(&mut lapic, reg::LVT_CMCI), 0);
    assert_eq!(lapic.raise(Lvt::Cmci), LocalInterrupt::Masked);
    lapic.configure(config());
    assert_eq!(read(&mut lapic, reg::VERSION), 0x0006_0014);
    assert_eq!(read(&mut lapic, reg::LVT_CMCI), 0x10000);
}

#[test]
fn lapic_software_disable_masks_the_lvt_for_good() {
    let mut lapic = xapic();
    let _ = write(&mut lapic, reg::LVT_LINT1, 0x400);
    let effects = write(&mut lapic, reg::SVR, 0xff);
    assert_eq!(effects.software, Some(SoftwareState::Disabled));
    assert!(effects.identity_changed);
    assert_eq!(read(&mut lapic, reg::LVT_LINT1), 0x10400);
    let _ = write(&mut lapic, reg::LVT_LINT1, 0x400);
    assert_eq!(read(&mut lapic, reg::LVT_LINT1), 0x10400);
    let effects = write(&mut lapic, reg::SVR, 0x1ff);
    assert_eq!(effects.software, Some(SoftwareState::Enabled));
    assert_eq!(read(&mut lapic, reg::LVT_LINT1), 0x10400);
    let _ = write(&mut lapic, reg::LVT_LINT1, 0x400);
    assert_eq!(read(&mut lapic, reg::LVT_LINT1), 0x400);
    assert!(!write(&mut lapic, reg::SVR, 0x1fe).identity_changed);
}

#[test]
fn lapic_software_disabled_keeps_what_is_pending() {
    let mut lapic = xapic();
    lapic.accept(0x41, TriggerMode::Edge);
    let _ = write(&mut lapic, reg::SVR, 0xff);
    assert_eq!(lapic.highest_pending(), Some(0x41));
}

#[test]
fn lapic_identity_follows_its_registers() {
    let mut lapic = xapic();
    let rows = [
        (reg::ID, 0x0900_0000),
        (reg::LDR, 0x0412_3456),
        (reg::DFR, 0x0000_0000),
        (reg::LVT_LINT0, 0x0000_0400),
    ];
    for (offset, value) in rows {
        assert!(
            write(&mut lapic, offset, value).identity_changed,
            "{offset:#x}"
        );
    }
    let expected = Identity {
        x2apic_id: 5,
        xapic_id: 9,
        logical_id: 4,
        model: LogicalModel::Cluster,
        mode: ApicMode::XApic,
        software: SoftwareState::Enabled,
        lint0: Lint0::Nmi,
    };
    assert_eq!(lapic.identity(), expected);
    assert_eq!(read(&mut lapic, reg::LDR), 0x0400_0000);
    assert_eq!(read(&mut lapic, reg::DFR), 0x0fff_ffff);
}

#[test]
fn lapic_icr_sends_what_it_describes() {
    let mut lapic = xapic();
    assert_eq!(
        write(&mut lapic, reg::ICR2, 0x0312_3456),
        Effects::default()
    );
    let effects = write(&mut lapic, reg::ICR, 0x5841);
    let ipi = effects.ipi.unwrap();
    assert_eq!(
        (ipi.dest, ipi.vector, ipi.dest_mode),
        (3, 0x41, DestMode::Logical)
    );
    assert_eq!(ipi.delivery, DeliveryMode::Fixed);
    // The delivery status is idle again, other bits read as written.
    assert_eq!(read(&mut lapic, reg::ICR), 0x4841);
    assert_eq!(read(&mut lapic, reg::ICR2), 0x0300_0000);
}

#[test]
fn lapic_icr_does_not_send_vectors_0_to_15_but_sipis_to_page_0() {
    let mut lapic = xapic();
    assert_eq!(write(&mut lapic, reg::ICR, 0x400f).ipi, None);
    assert_eq!(read(&mut lapic, reg::ICR), 0x400f);
    let _ = write(&mut lapic, reg::ESR, 0);
    assert_eq!(
        read(&mut lapic, reg::ESR),
        u64::from(esr::SEND_ILLEGAL_VECTOR)
    );
    let sipi = write(&mut lapic, reg::ICR, 0x4600).ipi.unwrap();
    assert_eq!((sipi.delivery, sipi.vector), (DeliveryMode::Startup, 0));
}

#[test]
fn lapic_interrupt_to_itself_is_accepted_at_once() {
    let mut lapic = xapic();
    let effects = write(&mut lapic, reg::ICR, 0x4_4041);
    assert_eq!((effects.ipi, effects.recheck), (None, true));
    assert_eq!(lapic.highest_pending(), Some(0x41));
    // An NMI to itself is the caller's to deliver.
    let nmi = write(&mut lapic, reg::ICR, 0x4_4400).ipi.unwrap();
    assert_eq!(
        (nmi.shorthand, nmi.delivery),
        (Shorthand::Myself, DeliveryMode::Nmi)
    );
    let _ = write(&mut lapic, reg::SVR, 0xff);
    assert!(!write(&mut lapic, reg::ICR, 0x4_4051).recheck);
    assert_eq!(lapic.highest_irr(), Some(0x41));
}

#[test]
fn lapic_memory_is_read_within_one_register_and_written_by_dwords() {
    let mut lapic = xapic();
    let _ = write(&mut lapic, reg::LVT_LINT0, 0x10731);
    let rows = [
        (0x350, 4, 0x10731),
        (0x350, 2, 0x0731),
        (0x351, 1, 0x07),
        (0x352, 2, 0x0001),
        (0x353, 2, 0),
        (0x350, 8, 0),
        (0x354, 4, 0),
    ];
    for (offset, len, value) in rows {
        assert_eq!(
            lapic.read(offset, len, &NOW).value,
            value,
            "{offset:#x}+{len}"
        );
    }
    for (offset, len) in [(0x351, 4), (0x350, 1), (0x350, 2), (0x350, 8), (0x354, 4)] {
        let _ = lapic.write(offset, len, 0x400, &NOW);
        assert_eq!(read(&mut lapic, reg::LVT_LINT0), 0x10731);
    }
}

#[test]
fn lapic_memory_is_a_hole_outside_xapic_mode() {
    let mut lapic = x2apic();
    assert_eq!(lapic.read(reg::ID.into(), 4, &NOW).value, 0xffff_ffff);
    assert_eq!(lapic.read(reg::ID.into(), 1, &NOW).value, 0xff);
    assert_eq!(write(&mut lapic, reg::TPR, 0x50), Effects::default());
    assert_eq!(lapic.tpr(), 0);
    let _ = lapic
        .set_base(APIC_DEFAULT_PHYS_BASE, Initiator::Guest)
        .unwrap();
    assert_eq!(lapic.read(reg::ID.into(), 4, &NOW).value, 0xffff_ffff);
}

#[test]
fn lapic_reserved_memory_reads_zero_and_is_an_error() {
    for offset in [0x00, 0x10, 0x40, 0xf00, 0x3f0, 0x400] {
        let mut lapic = xapic();
        assert_eq!(read(&mut lapic, offset), 0);
        let _ = write(&mut lapic, reg::ESR, 0);
        assert_eq!(
            read(&mut lapic, reg::ESR),
            u64::from(esr::ILLEGAL_REGISTER_ADDRESS),
            "{offset:#x}"
        );
    }
    let mut lapic = xapic();
    for offset in [reg::EOI, reg::APR, reg::RRD] {
        assert_eq!(read(&mut lapic, offset), 0);
    }
    let _ = write(&mut lapic, reg::ESR, 0);
    assert_eq!(read(&mut lapic, reg::ESR), 0);
}

#[test]
fn lapic_self_ipi_is_a_register_of_x2apic_mode_only() {
    let mut lapic = x2apic();
    let effects = lapic.wrmsr(0x83f, 0x41, &NOW).unwrap();
    assert_eq!((effects.ipi, effects.recheck), (None, true));
    assert_eq!(lapic.highest_pending(), Some(0x41));
    assert_eq!(lapic.wrmsr(0x83f, 0x141, &NOW), GP);
    let mut lapic = xapic();
    let _ = write(&mut lapic, reg::SELF_IPI, 0x41);
    assert_eq!(lapic.highest_irr(), None);
}

#[test]
fn x2apic_msrs_are_there_in_x2apic_mode_only() {
    let mut lapic = xapic();
    assert_eq!(lapic.rdmsr(0x802, &NOW), Err(Exception::GP0));
    assert_eq!(lapic.wrmsr(0x808, 0, &NOW), GP);
}

#[test]
fn x2apic_absent_and_write_only_msrs_fault_on_read() {
    let lapic = x2apic();
    let readable = [
        0x802, 0x803, 0x808, 0x80a, 0x80d, 0x80f, 0x828, 0x82f, 0x830, 0x832, 0x833, 0x834, 0x835,
        0x836, 0x837, 0x838, 0x839, 0x83e,
    ];
    for msr in 0x7f0..0x910 {
        let is_bank = (0x810..0x828).contains(&msr);
        let expected = is_bank || readable.contains(&msr);
        assert_eq!(lapic.rdmsr(msr, &NOW).is_ok(), expected, "{msr:#x}");
    }
}

#[test]
fn x2apic_absent_and_read_only_msrs_fault_on_write() {
    let mut lapic = x2apic();
    let writable = [
        0x808, 0x80b, 0x80f, 0x828, 0x82f, 0x830, 0x832, 0x833, 0x834, 0x835, 0x836, 0x837, 0x838,
        0x83e, 0x83f,
    ];
    for msr in 0x7f0..0x910 {
        assert_eq!(
            lapic.wrmsr(msr, 0, &NOW).is_ok(),
            writable.contains(&msr),
            "{msr:#x}"
        );
    }
}

#[test]
fn x2apic_reserved_bits_fault() {
    let rows: [(u16, u64); 11] = [
        (reg::TPR, 0xff),
        (reg::EOI, 0),
        (reg::SVR, 0x13ff),
        (reg::ESR, 0),
        (reg::ICR, !0xfff3_2000),
        (reg::LVT_TIMER, 0x7_50ff),
        (reg::LVT_LINT0, 0x1_f7ff),
        (reg::LVT_ERROR, 0x1_50ff),
        (reg::TIMER_INITIAL, 0xffff_ffff),
        (reg::TIMER_DIVIDE, 0b1011),
        (reg::SELF_IPI, 0xff),
    ];
    for (offset, legal) in rows {
        for bit in 0..64 {
            let value = 1 << bit;
            let is_legal = value & legal != 0;
            let result = x2apic().wrmsr(msr(offset), value, &NOW);
            assert_eq!(result.is_ok(), is_legal, "{offset:#x} bit {bit}");
        }
    }
}

#[test]
fn x2apic_icr_is_one_register_of_64_bits() {
    let mut lapic = x2apic();
    let ipi = lapic
        .wrmsr(0x830, 0x0001_0007_0000_5841, &NOW)
        .unwrap()
        .ipi
        .unwrap();
    assert_eq!((ipi.dest, ipi.dest_mode), (0x1_0007, DestMode::Logical));
    assert_eq!(lapic.rdmsr(0x830, &NOW), Ok(0x0001_0007_0000_4841));
}

#[test]
fn apic_base_transitions_of_the_guest_follow_the_state_diagram() {
    // Disabled, xAPIC, x2APIC, and the illegal EXTD without EN.
    let values = [0xfee0_0000, 0xfee0_0800, 0xfee0_0c00, 0xfee0_0400];
    let legal = [
        [true, true, false, false],
        [true, true, true, false],
        [true, false, true, false],
    ];
    for (from, row) in legal.iter().enumerate() {
        for (to, &is_legal) in row.iter().enumerate() {
            let mut lapic = xapic();
            let _ = lapic.set_base(values[from], Initiator::Host).unwrap();
            let result = lapic.set_base(values[to], Initiator::Guest);
            assert_eq!(result.is_ok(), is_legal, "{from} to {to}");
            let now = if is_legal { values[to] } else { values[from] };
            assert_eq!(lapic.base(), now);
            let _ = lapic.set_base(values[from], Initiator::Host).unwrap();
            assert_eq!(lapic.set_base(values[to], Initiator::Host).is_ok(), to != 3);
        }
    }
}

#[test]
fn apic_base_refuses_reserved_bits() {
    let mut lapic = xapic();
    for bit in (0..8).chain([9]).chain(46..64) {
        let value = 0xfee0_0900 | 1 << bit;
        assert_eq!(lapic.set_base(value, Initiator::Host), GP, "bit {bit}");
    }
    lapic.configure(Config {
        has_x2apic: false,
        ..config()
    });
    assert_eq!(lapic.set_base(0xfee0_0d00, Initiator::Guest), GP);
    let effects = lapic.set_base(0x3fff_fee0_0900, Initiator::Guest).unwrap();
    assert!(effects.base_moved && !effects.mode_changed);
    assert_eq!(lapic.base_address(), Gpa(0x3fff_fee0_0000));
}

#[test]
fn apic_ids_are_set_anew_by_mode_changes() {
    let mut lapic = xapic();
    let _ = write(&mut lapic, reg::ID, 0x7700_0000);
    let _ = write(&mut lapic, reg::LDR, 0x0100_0000);
    let effects = lapic.set_base(0xfee0_0d00, Initiator::Guest).unwrap();
    assert!(effects.mode_changed && effects.identity_changed && !effects.base_moved);
    assert_eq!(lapic.rdmsr(0x802, &NOW), Ok(5));
    assert_eq!(lapic.rdmsr(0x80d, &NOW), Ok(0x20));
    assert_eq!(lapic.identity().mode, ApicMode::X2Apic);
    let _ = lapic.set_base(0xfee0_0900, Initiator::Host).unwrap();
    assert_eq!(read(&mut lapic, reg::ID), 5 << 24);
    assert_eq!(read(&mut lapic, reg::LDR), 0);
    let _ = write(&mut lapic, reg::ID, 0x7700_0000);
    let _ = lapic.set_base(0xfee0_0100, Initiator::Guest).unwrap();
    let _ = lapic.set_base(0xfee0_0900, Initiator::Guest).unwrap();
    assert_eq!(read(&mut lapic, reg::ID), 5 << 24);
}

#[test]
fn lapic_powers_up_disabled_and_masked() {
    for is_bsp in [true, false] {
        let mut lapic = cold(Config { is_bsp, ..config() });
        assert_eq!(lapic.base(), 0xfee0_0800 | u64::from(is_bsp) << 8);
        let lint0 = if is_bsp { 0x700 } else { 0x10000 };
        let rows = [
            (reg::ID, 5 << 24),
            (reg::VERSION, 0x0006_0014),
            (reg::TPR, 0),
            (reg::LDR, 0),
            (reg::DFR, 0xffff_ffff),
            (reg::SVR, 0xff),
            (reg::LVT_TIMER, 0x10000),
            (reg::LVT_LINT0, lint0),
            (reg::LVT_LINT1, 0x10000),
            (reg::LVT_ERROR, 0x10000),
            (reg::LVT_CMCI, 0x10000),
        ];
        for (offset, value) in rows {
            assert_eq!(read(&mut lapic, offset), value, "{offset:#x}");
        }
        assert_eq!(lapic.software(), SoftwareState::Disabled);
    }
    let mut strict = cold(Config {
        lint0: Lint0AtReset::Masked,
        ..config()
    });
    assert_eq!(read(&mut strict, reg::LVT_LINT0), 0x10000);
}

#[test]
fn lapic_init_spares_base_and_id_and_clears_the_rest() {
    let mut lapic = xapic();
    let _ = lapic.set_base(0xfee1_0900, Initiator::Guest).unwrap();
    let _ = write(&mut lapic, reg::ID, 0x7700_0000);
    let _ = write(&mut lapic, reg::LDR, 0x0100_0000);
    let _ = write(&mut lapic, reg::TIMER_INITIAL, 100);
    let _ = lapic.set_cr8(5);
    lapic.accept(0x41, TriggerMode::Level);
    serve(&mut lapic, 0x91);
    lapic.accept(3, TriggerMode::Edge);
    let effects = lapic.reset(Reset::Init);
    assert_eq!(effects.timer, Some(TimerAction::Cancel));
    assert_eq!(effects.software, Some(SoftwareState::Disabled));
    assert!(effects.identity_changed && !effects.mode_changed);
    assert_eq!(lapic.base(), 0xfee1_0900);
    assert_eq!(read(&mut lapic, reg::ID), 0x7700_0000);
    assert_eq!(read(&mut lapic, reg::LDR), 0);
    assert_eq!(read(&mut lapic, reg::TIMER_CURRENT), 0);
    assert_eq!(
        (lapic.highest_irr(), lapic.highest_isr(), lapic.tpr()),
        (None, None, 0)
    );
    let _ = write(&mut lapic, reg::ESR, 0);
    assert_eq!(read(&mut lapic, reg::ESR), 0);
    let _ = lapic.reset(Reset::PowerUp);
    assert_eq!(lapic.base(), 0xfee0_0900);
    assert_eq!(read(&mut lapic, reg::ID), 5 << 24);
}

#[test]
fn lapic_init_in_x2apic_mode_stays_there() {
    let mut lapic = x2apic();
    let _ = lapic.reset(Reset::Init);
    assert_eq!(lapic.mode(), ApicMode::X2Apic);
    assert_eq!(lapic.rdmsr(0x80d, &NOW), Ok(0x20));
}

#[test]
fn lapic_timer_makes_its_vector_pending_and_periodic_goes_on() {
    let mut lapic = xapic();
    let _ = write(&mut lapic, reg::TIMER_DIVIDE, 0b1011);
    let _ = write(&mut lapic, reg::LVT_TIMER, 0x2_0041);
    let effects = write(&mut lapic, reg::TIMER_INITIAL, 100);
    assert_eq!(
        effects.timer,
        Some(TimerAction::ArmNs {
            deadline_ns: NOW + 100
        })
    );
    assert_eq!(
        lapic.read(reg::TIMER_CURRENT.into(), 4, &(NOW + 30)).value,
        70
    );
    let early = lapic.timer_fired(NOW + 99, 0);
    assert_eq!(early.timer, effects.timer);
    assert!(!early.recheck);
    let fired = lapic.timer_fired(NOW + 100, 0);
    assert!(fired.recheck);
    assert_eq!(
        fired.timer,
        Some(TimerAction::ArmNs {
            deadline_ns: NOW + 200
        })
    );
    assert_eq!(lapic.highest_pending(), Some(0x41));
}

#[test]
fn lapic_timer_that_is_masked_expires_without_an_interrupt() {
    let mut lapic = xapic();
    let _ = write(&mut lapic, reg::LVT_TIMER, 0x1_0041);
    let _ = write(&mut lapic, reg::TIMER_INITIAL, 100);
    assert_eq!(lapic.timer_fired(NOW + 1000, 0), Effects::default());
    assert_eq!(lapic.highest_irr(), None);
}

#[test]
fn lapic_tsc_deadline_arms_only_in_its_mode() {
    let mut lapic = xapic();
    assert_eq!(lapic.set_tsc_deadline(500).timer, None);
    let _ = write(&mut lapic, reg::TIMER_INITIAL, 100);
    let effects = write(&mut lapic, reg::LVT_TIMER, 0x4_0041);
    assert_eq!(effects.timer, Some(TimerAction::Cancel));
    assert_eq!(read(&mut lapic, reg::TIMER_INITIAL), 0);
    assert_eq!(write(&mut lapic, reg::TIMER_INITIAL, 100).timer, None);
    assert_eq!(read(&mut lapic, reg::TIMER_INITIAL), 0);
    let armed = Some(TimerAction::ArmTsc { deadline_tsc: 500 });
    assert_eq!(lapic.set_tsc_deadline(500).timer, armed);
    assert_eq!(lapic.tsc_deadline(), 500);
    assert!(lapic.timer_fired(0, 500).recheck);
    assert_eq!(lapic.tsc_deadline(), 0);
    assert_eq!(lapic.highest_pending(), Some(0x41));
}

#[test]
fn written_page_has_the_effects_of_the_write() {
    let mut lapic = xapic();
    lapic.page_mut().set(reg::SVR, 0xff);
    let effects = lapic.written(reg::SVR, &NOW);
    assert_eq!(effects.software, Some(SoftwareState::Disabled));
    assert!(effects.identity_changed);
    lapic.page_mut().set(reg::ICR2, 0x0300_0000);
    lapic.page_mut().set(reg::ICR, 0x5041);
    assert_eq!(
        lapic.written(reg::ICR, &NOW).ipi.map(|ipi| ipi.dest),
        Some(3)
    );
    assert_eq!(read(&mut lapic, reg::ICR), 0x4041);
    let mut lapic = x2apic();
    lapic.page_mut().set(reg::ICR_X2APIC_HIGH, 0x1_0007);
    lapic.page_mut().set(reg::ICR, 0x4041);
    assert_eq!(
        lapic.written(reg::ICR, &NOW).ipi.map(|ipi| ipi.dest),
        Some(0x1_0007)
    );
}

/// Step of a random history of an APIC.
#[derive(Clone, Debug)]
enum Step {
    Accept(u8, bool),
    Deliver,
    Eoi,
    Tpr(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (any::<u8>(), any::<bool>()).prop_map(|(vector, level)| Step::Accept(vector, level)),
        Just(Step::Deliver),
        Just(Step::Eoi),
        any::<u8>().prop_map(Step::Tpr),
    ]
}

/// The same, with sets.
#[derive(Default)]
struct Model {
    irr: BTreeSet<u8>,
    isr: BTreeSet<u8>,
    level: BTreeSet<u8>,
    tpr: u8,
}

impl Model {
    fn priority(&self) -> u8 {
        let served = self.isr.last().map_or(0, |vector| vector / 16);
        served.max(self.tpr / 16)
    }

    fn deliverable(&self) -> Option<u8> {
        self.irr
            .iter()
            .rev()
            .copied()
            .find(|vector| vector / 16 > self.priority())
    }
}

proptest! {
    #[test]
    fn irr_isr_and_ppr_agree_with_sets(steps in prop::collection::vec(step(), 1..200)) {
        let mut lapic = xapic();
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Accept(vector, is_level) => {
                    let acceptance = lapic.accept(vector, TriggerMode::from_bit(is_level));
                    if vector < 16 {
                        prop_assert_eq!(acceptance, Acceptance::Illegal);
                    } else {
                        let is_new = model.irr.insert(vector);
                        prop_assert_eq!(acceptance == Acceptance::Pending, is_new);
                        if is_level {
                            model.level.insert(vector);
                        } else {
                            model.level.remove(&vector);
                        }
                    }
                }
                Step::Deliver => {
                    if let Some(vector) = lapic.highest_pending() {
                        lapic.ack(vector);
                        model.irr.remove(&vector);
                        model.isr.insert(vector);
                    }
                }
                Step::Eoi => {
                    let eoi = write(&mut lapic, reg::EOI, 0).eoi;
                    let ended = model.isr.pop_last();
                    prop_assert_eq!(eoi.map(|eoi| eoi.vector), ended);
                    if let (Some(eoi), Some(ended)) = (eoi, ended) {
                        let is_level = model.level.contains(&ended);
                        prop_assert_eq!(eoi.trigger, TriggerMode::from_bit(is_level));
                    }
                }
                Step::Tpr(tpr) => {
                    let _ = write(&mut lapic, reg::TPR, tpr.into());
                    model.tpr = tpr;
                }
            }
            prop_assert_eq!(lapic.highest_pending(), model.deliverable());
            prop_assert_eq!(lapic.ppr() >> 4, model.priority());
            prop_assert_eq!(lapic.highest_irr(), model.irr.last().copied());
            let irr: Vec<u8> = Bank::Irr.all(lapic.page()).iter().collect();
            prop_assert_eq!(irr, model.irr.iter().copied().collect::<Vec<_>>());
        }
    }

    #[test]
    fn random_accesses_do_not_panic(
        accesses in prop::collection::vec(
            (0..0x1100u32, 0..9usize, any::<u64>(), any::<u64>(), 0..6u8), 1..50),
    ) {
        let mut lapic = xapic();
        for (offset, len, value, now, kind) in accesses {
            match kind {
                0 => { let _ = lapic.read(offset, len, &now); }
                1 => { let _ = lapic.write(offset & !0xf, 4, value, &now); }
                2 => { let _ = lapic.wrmsr(0x800 + (offset >> 4), value, &now); }
                3 => { let _ = lapic.rdmsr(0x800 + (offset >> 4), &now); }
                4 => { let _ = lapic.set_base(value & 0xfee0_0f00, Initiator::Host); }
                _ => { let _ = lapic.timer_fired(now, value); }
            }
        }
    }
}
