// SPDX-License-Identifier: GPL-2.0

//! The rules of VM entry, and states near their borders.
//!
//! A rule writes what belongs together: a control with the address that it
//! needs, a segment's access rights with its limit and selector, an event with
//! what blocks it. About half of what comes out is valid.

use burrow_core::x86::vmx::field as f;

use super::{
    flips,
    judged,
    Case,
    APIC, //
};
use crate::{
    cpu::{
        self,
        page,
        Global, //
    },
    vmx::{
        self,
        rd, //
    },
};

/// Bends a rule.
pub fn bend(case: &mut Case) {
    const RULES: [fn(&mut Case); 20] = [
        flips::corrupt,
        flips::corrupt,
        segment,
        segment,
        segment,
        table,
        paging,
        paging,
        event,
        event,
        activity,
        activity,
        windows,
        entry_list,
        lists,
        addresses,
        pointers,
        host,
        host,
        tpr,
    ];
    let rule = case.random.one_of(&RULES);
    rule(case);
}

/// Pages of this module.
#[derive(Clone, Copy)]
struct Pages {
    /// A list of MSRs.
    list: u64,
    /// What a VMCS link leads to.
    link: u64,
}

static PAGES: Global<Pages> = Global::new(Pages { list: 0, link: 0 });

/// Allocates what the rules need.
pub fn prepare() {
    PAGES.set(Pages {
        list: page(),
        link: page(),
    });
}

/// Linear addresses: around the ends of what is canonical, and of 32 bits. Neither they nor their
/// low halves have memory in the EPT, but 0.
const LINEAR: &[u64] = &[
    0,
    1 << 31,
    0xffff_f000,
    1 << 32 | 1 << 31,
    0x7fff_ffff_f000,
    1 << 47 | 1 << 31,
    !0 << 47 | 1 << 31,
    !0 << 48 | 1 << 31,
    !(1 << 47 | 0xfff),
    1 << 63 | 1 << 31,
    !0xfff,
];

/// Limits, with granularity fit for none, one or both values of G.
const LIMITS: &[u64] = &[
    0,
    0x67,
    0xfff,
    0xffff,
    0xf_ffff,
    0x10_0000,
    0x10_0fff,
    0xffff_f000,
    0xffff_ffff,
];

/// A segment register: ES, CS, SS, DS, FS, GS, LDTR or TR. Its fields are some numbers apart.
fn segment(case: &mut Case) {
    let random = &mut case.random;
    let number = 2 * random.one_of(&[0, 1, 1, 2, 2, 3, 4, 5, 6, 7, 7]);
    let field = |first: f::Encoding| u64::from(first.0) + number;
    let rights_field = field(f::GUEST_ES_AR_BYTES.encoding());
    let mut rights = vmx::vmread(rights_field).1;
    // Type, S, DPL, P, AVL, L, D/B, G, unusable.
    for (mask, times) in [
        (0xf, 3),
        (0x10, 8),
        (0x60, 4),
        (0x80, 8),
        (0x1000, 8),
        (0x2000, 6),
        (0x4000, 6),
        (0x8000, 6),
        (0x1_0000, 8),
    ] {
        if random.once_in(times) {
            rights = rights & !mask | random.next() & mask;
        }
    }
    let limit = random.once_in(3).then(|| random.one_of(LIMITS));
    let selector = random.once_in(3).then(|| random.below(8));
    // Code has to stay where it is, or be where there is nothing.
    let base = random.once_in(6).then(|| random.one_of(&LINEAR[1..]));
    case.write(rights_field, rights);
    if let Some(limit) = limit {
        case.write(field(f::GUEST_ES_LIMIT.encoding()), limit);
    }
    if let Some(bits) = selector {
        let selector = field(f::GUEST_ES_SELECTOR.encoding());
        case.write(selector, vmx::vmread(selector).1 & !7 | bits);
    }
    if let Some(base) = base {
        case.write(field(f::GUEST_ES_BASE.encoding()), base);
    }
}

/// GDTR, IDTR, and the registers of SYSENTER.
fn table(case: &mut Case) {
    let base = case.random.one_of(&LINEAR[1..]);
    let limit = case.random.one_of(LIMITS);
    match case.random.below(6) {
        0 => case.put(f::GUEST_GDTR_BASE, base),
        1 => case.put(f::GUEST_IDTR_BASE, base),
        2 => case.put(f::GUEST_GDTR_LIMIT, limit),
        3 => case.put(f::GUEST_IDTR_LIMIT, limit),
        4 => case.put(f::GUEST_SYSENTER_ESP, base),
        _ => case.put(f::GUEST_SYSENTER_EIP, base),
    }
}

/// Bits of `old` within `mask`, each changed once in so many times.
fn shake(case: &mut Case, old: u64, mask: u64, times: u64) -> u64 {
    (0..64)
        .map(|bit| 1 << bit)
        .filter(|bit| mask & bit != 0)
        .fold(old, |value, bit| {
            value ^ if case.random.once_in(times) { bit } else { 0 }
        })
}

/// CR0, CR4, EFER, and the controls that go with them; the entries of PAE paging.
fn paging(case: &mut Case) {
    // PE, NE, WP, AM, NW, CD, PG; reserved bits are for flips.
    let cr0 = shake(case, rd(f::GUEST_CR0), 0xe005_0021, 8);
    case.put(f::GUEST_CR0, cr0);
    // PSE, PAE, PGE, VMXE, PCIDE, SMEP.
    let cr4 = shake(case, rd(f::GUEST_CR4), 0x0012_20b0, 8);
    case.put(f::GUEST_CR4, cr4);
    // SCE, LME, LMA, NXE, and two that are reserved.
    let efer = shake(case, rd(f::GUEST_IA32_EFER), 0xd03, 8);
    case.put(f::GUEST_IA32_EFER, efer);
    let entry = shake(
        case,
        rd(f::VM_ENTRY_CONTROLS),
        u64::from(vmx::ENTRY_IA32E | vmx::ENTRY_LOAD_EFER),
        8,
    );
    case.put(f::VM_ENTRY_CONTROLS, entry);
    if case.random.once_in(4) {
        let cpu2 = rd(f::SECONDARY_VM_EXEC_CONTROL) ^ u64::from(vmx::CPU2_UNRESTRICTED);
        case.put(f::SECONDARY_VM_EXEC_CONTROL, cpu2);
    }
    if case.random.once_in(2) {
        let field = case.random.one_of(&[
            f::GUEST_PDPTR0,
            f::GUEST_PDPTR1,
            f::GUEST_PDPTR2,
            f::GUEST_PDPTR3,
        ]);
        // P, the reserved bits below and above the address.
        let reserved = 0x1e6 | !0 << cpu::physical_width();
        let entry = rd(field) ^ case.random.flip(reserved | 1);
        case.put(field, entry);
    }
}

/// An event to inject: any kind, vector, error code and length.
fn event(case: &mut Case) {
    let random = &mut case.random;
    let kind = random.below(8);
    let vector = match kind {
        2 => random.one_of(&[2, 2, 2, 3]),
        3 => random.below(34),
        // INT1, the only one that there is.
        5 => 1,
        // Vector 0 would be a monitor trap, which Bochs takes too late.
        7 => 1 + random.below(2),
        _ => random.one_of(&[0, 3, 4, 32, 0x80, 255]),
    };
    let has_error = judged::has_error_code(kind, vector) != random.once_in(8);
    let code = random.one_of(&[0, 2, 0x7fff, 0x8000, 0xffff, 0x1_0000, 0x8000_0000]);
    let length = random.one_of(&[1, 2, 15, 16, 0x8000_0001]);
    let flags = random.one_of(&[2, 0x202, 0x202, 0x0001_0202]);
    let blocking = random.one_of(&[0, 0, 0, 1, 2, 8]);
    let word = 1 << 31 | u64::from(has_error) << 11 | kind << 8 | vector;
    case.put(f::VM_ENTRY_INTR_INFO_FIELD, word);
    case.put(f::VM_ENTRY_EXCEPTION_ERROR_CODE, code);
    case.put(f::VM_ENTRY_INSTRUCTION_LEN, length);
    case.put(f::GUEST_RFLAGS, rd(f::GUEST_RFLAGS) & !0x202 | flags);
    case.put(f::GUEST_INTERRUPTIBILITY_INFO, blocking);
}

/// The activity state, with what goes with it and what ends it; blocking, and pending debug
/// exceptions.
fn activity(case: &mut Case) {
    let random = &mut case.random;
    let activity = random.one_of(&[0, 0, 0, 1, 1, 4, 0x8000_0000]);
    let blocking = random.one_of(&[0, 0, 1, 2, 3, 4, 8, 9, 0xa, 0x20, 0x8000_0000]);
    let flags = random.one_of(&[2, 0x202, 0x202, 0x102, 0x302]);
    let pending = random.one_of(&[0, 0, 1, 0xf, 0x1001, 0x4000, 0x5001, 0x10, 0x800, 0x8000]);
    // Of HLT only an event is sure to be the end.
    let event = match random.below(if activity == 1 { 4 } else { 8 }) {
        0 => 0x8000_0020,
        1 => 0x8000_0202,
        2 => 0x8000_0301,
        3 => 0x8000_0312,
        _ => 0,
    };
    case.put(f::GUEST_ACTIVITY_STATE, activity);
    case.put(f::GUEST_INTERRUPTIBILITY_INFO, blocking);
    case.put(f::GUEST_RFLAGS, rd(f::GUEST_RFLAGS) & !0x302 | flags);
    case.put(f::GUEST_PENDING_DBG_EXCEPTIONS, pending);
    case.put(f::VM_ENTRY_INTR_INFO_FIELD, event);
}

/// Controls of NMIs and of windows, with what keeps windows shut.
fn windows(case: &mut Case) {
    let pin = u64::from(vmx::PIN_EXTERNAL | vmx::PIN_NMI | vmx::PIN_VIRTUAL_NMIS);
    let pin = shake(case, rd(f::PIN_BASED_VM_EXEC_CONTROL), pin, 2);
    let cpu = u64::from(vmx::CPU_INTERRUPT_WINDOW | vmx::CPU_NMI_WINDOW);
    let cpu = shake(case, rd(f::CPU_BASED_VM_EXEC_CONTROL), cpu, 2);
    let exit = u64::from(vmx::EXIT_ACKNOWLEDGE | vmx::EXIT_SAVE_TIMER);
    let exit = shake(case, rd(f::VM_EXIT_CONTROLS), exit, 6);
    let blocking = case.random.one_of(&[0, 0, 1, 2, 8, 0xa]);
    let flags = case.random.one_of(&[2, 0x202]);
    case.put(f::PIN_BASED_VM_EXEC_CONTROL, pin);
    case.put(f::CPU_BASED_VM_EXEC_CONTROL, cpu);
    case.put(f::VM_EXIT_CONTROLS, exit);
    case.put(f::GUEST_INTERRUPTIBILITY_INFO, blocking);
    case.put(f::GUEST_RFLAGS, rd(f::GUEST_RFLAGS) & !0x202 | flags);
}

/// MSRs that are loaded at entry, of which some cannot be.
fn entry_list(case: &mut Case) {
    const ENTRIES: &[(u64, u64)] = &[
        (0x174, 0x10),
        (0x175, 0x7fff_ffff_f000),
        (0xc000_0081, 0x23_0010 << 32),
        (0xc000_0102, !0 << 47),
        (0xc000_0102, 1 << 32),
        (0xc000_0080, 0xd01),
        (0x277, vmx::PAT),
        (0x175, 1 << 47),
        (0x176, 1 << 63),
        (0xc000_0082, 1 << 48),
        (0x277, 2),
        (0x277, 8 << 56),
        (0xc000_0080, 0x501 | 2),
        (0xc000_0080, 1),
        (0xc000_0100, 0),
        (0xc000_0101, 0),
        (0x800, 0),
        (0x808, 0),
        (0x8ff, 0),
        (0x480, 0),
        (0x1_c000_0102, 0),
        (0x8000_0000_0000_0174, 0),
    ];
    let list = PAGES.get().list;
    let count = 1 + case.random.below(4);
    for n in 0..count {
        // The first are good.
        let among = if case.random.once_in(3) {
            ENTRIES.len()
        } else {
            7
        };
        let (index, value) = ENTRIES[case.random.below(among as u64) as usize];
        cpu::poke(list + 16 * n, index);
        cpu::poke(list + 16 * n + 8, value);
        // Not a field: for who reads it.
        case.note(index, value);
    }
    case.put(f::VM_ENTRY_MSR_LOAD_ADDR, list);
    case.put(f::VM_ENTRY_MSR_LOAD_COUNT, count);
}

/// Where a list of MSRs is, and how long.
fn lists(case: &mut Case) {
    let end = 1 << cpu::physical_width();
    let address = case
        .random
        .one_of(&[8, PAGES.get().list | 1, end, end - 16, !0 << 63, !0 << 4]);
    // The last entry of the memory that there could be is a list of one, which is not read here.
    let count = match address == end - 16 {
        true => case.random.one_of(&[0, 2, 3]),
        false => case.random.one_of(&[0, 1, 2]),
    };
    match case.random.below(3) {
        0 => {
            case.put(f::VM_ENTRY_MSR_LOAD_ADDR, address);
            case.put(f::VM_ENTRY_MSR_LOAD_COUNT, count);
        }
        1 => {
            case.put(f::VM_EXIT_MSR_LOAD_ADDR, address);
            case.put(f::VM_EXIT_MSR_LOAD_COUNT, count);
        }
        _ => {
            case.put(f::VM_EXIT_MSR_STORE_ADDR, address);
            case.put(f::VM_EXIT_MSR_STORE_COUNT, count);
        }
    }
}

/// An address with the control that has it looked at, or not.
fn addresses(case: &mut Case) {
    let end = 1 << cpu::physical_width();
    let address = case
        .random
        .one_of(&[APIC.get(), 1, 8, 0x800, 0xfff, end, !0 << 12, 1 << 63]);
    let is_on = !case.random.once_in(4);
    let (control, secondary) = match case.random.below(5) {
        0 => {
            case.put(f::IO_BITMAP_A, address);
            (vmx::CPU_IO_BITMAPS, 0)
        }
        1 => {
            case.put(f::IO_BITMAP_B, address);
            (vmx::CPU_IO_BITMAPS, 0)
        }
        2 => {
            case.put(f::MSR_BITMAP, address);
            (vmx::CPU_MSR_BITMAPS, 0)
        }
        3 => {
            case.put(f::VIRTUAL_APIC_PAGE_ADDR, address);
            (vmx::CPU_TPR_SHADOW, 0)
        }
        _ => {
            case.put(f::APIC_ACCESS_ADDR, address);
            (0, vmx::CPU2_APIC_ACCESS)
        }
    };
    if is_on {
        let cpu = rd(f::CPU_BASED_VM_EXEC_CONTROL) | u64::from(control);
        case.put(f::CPU_BASED_VM_EXEC_CONTROL, cpu);
        let cpu2 = rd(f::SECONDARY_VM_EXEC_CONTROL) | u64::from(secondary);
        case.put(f::SECONDARY_VM_EXEC_CONTROL, cpu2);
    }
}

/// The EPT pointer, the VMCS link, CR3, the VPID, the number of CR3 targets.
fn pointers(case: &mut Case) {
    let end = 1 << cpu::physical_width();
    let ept = rd(f::EPT_POINTER);
    let link = PAGES.get().link;
    match case.random.below(8) {
        0 => {
            // Memory type (not 0, which software does not offer), length of the walk, dirty
            // flags, reserved bits.
            let kind = case.random.one_of(&[6, 6, 6, 1, 4, 5, 7]);
            let walk = case.random.one_of(&[3, 3, 3, 2, 5, 7]);
            let flags = case.random.one_of(&[0, 0x40, 0x40, 0x100, 0x800]);
            case.put(f::EPT_POINTER, ept & !0xfff | flags | walk << 3 | kind);
        }
        1 => case.put(f::EPT_POINTER, ept | end),
        2 | 3 => {
            let revision = vmx::revision();
            let words = [revision, revision, revision ^ 1, revision | 1 << 31, 0, !0];
            let which = case.random.below(words.len() as u64);
            cpu::poke32(link, words[which as usize]);
            // The identifier is another on each processor.
            case.note(link, which);
            case.put(f::VMCS_LINK_POINTER, link);
        }
        4 => {
            let address = case
                .random
                .one_of(&[link | 1, link | 0x800, end, !0 - 1, !0 << 12]);
            case.put(f::VMCS_LINK_POINTER, address);
        }
        5 => {
            let beyond = case.random.one_of(&[end, 1 << 62, 1 << 63]);
            case.put(f::GUEST_CR3, rd(f::GUEST_CR3) | beyond);
        }
        6 => {
            let number = case.random.one_of(&[0, 1, 0xffff]);
            case.put(f::VIRTUAL_PROCESSOR_ID, number);
            let cpu2 = rd(f::SECONDARY_VM_EXEC_CONTROL) | u64::from(vmx::CPU2_VPID);
            case.put(f::SECONDARY_VM_EXEC_CONTROL, cpu2);
        }
        _ => {
            let count = case.random.one_of(&[5, 255, 256, 1 << 31]);
            case.put(f::CR3_TARGET_COUNT, count);
        }
    }
}

/// A page attribute table with any memory type, or none, in one of its places.
fn pat(case: &mut Case) -> u64 {
    let (kind, place) = (case.random.below(9), case.random.below(8));
    (vmx::PAT & !0xff | kind).rotate_left(8 * place as u32)
}

/// The state of the host, which must stay one that this program can run in.
fn host(case: &mut Case) {
    const SELECTORS: [f::Encoding; 6] = [
        f::HOST_ES_SELECTOR.encoding(),
        f::HOST_SS_SELECTOR.encoding(),
        f::HOST_DS_SELECTOR.encoding(),
        f::HOST_FS_SELECTOR.encoding(),
        f::HOST_GS_SELECTOR.encoding(),
        f::HOST_TR_SELECTOR.encoding(),
    ];
    let end = 1 << cpu::physical_width();
    let linear = case.random.one_of(LINEAR);
    // What TR, GDTR, IDTR and RIP may not be.
    let bad = case
        .random
        .one_of(&[1 << 47, !0 << 48, !(1 << 47), 1 << 63]);
    let exit = rd(f::VM_EXIT_CONTROLS);
    match case.random.below(12) {
        0 => case.put(f::HOST_FS_BASE, linear),
        1 => case.put(f::HOST_GS_BASE, linear),
        2 => case.put(f::HOST_IA32_SYSENTER_ESP, linear),
        3 => case.put(f::HOST_IA32_SYSENTER_EIP, linear),
        4 => {
            let field = case.random.one_of(&[
                f::HOST_TR_BASE,
                f::HOST_GDTR_BASE,
                f::HOST_IDTR_BASE,
                f::HOST_RIP,
            ]);
            case.put(field, bad);
        }
        5 => {
            let field = u64::from(case.random.one_of(&SELECTORS).0);
            let bits = case.random.one_of(&[1, 2, 3, 4, 7]);
            case.write(field, vmx::vmread(field).1 | bits);
        }
        6 => {
            let field = case
                .random
                .one_of(&[f::HOST_CS_SELECTOR, f::HOST_TR_SELECTOR]);
            case.put(field, 0);
        }
        7 => {
            let beyond = case.random.one_of(&[end, 1 << 62, 1 << 63]);
            case.put(f::HOST_CR3, rd(f::HOST_CR3) | beyond);
        }
        8 => {
            // Without "load IA32_EFER" what the processor has stays.
            let efer = shake(case, rd(f::HOST_IA32_EFER), 0xd03, 6);
            case.put(f::HOST_IA32_EFER, efer);
            let exit = shake(case, exit, u64::from(vmx::EXIT_LOAD_EFER), 3);
            case.put(f::VM_EXIT_CONTROLS, exit);
        }
        9 => {
            let pat = pat(case);
            case.put(f::HOST_IA32_PAT, pat);
            let exit = exit ^ u64::from(vmx::EXIT_LOAD_PAT);
            case.put(f::VM_EXIT_CONTROLS, exit);
        }
        10 => {
            let pat = pat(case);
            case.put(f::GUEST_IA32_PAT, pat);
            let entry = rd(f::VM_ENTRY_CONTROLS) ^ u64::from(vmx::ENTRY_LOAD_PAT);
            case.put(f::VM_ENTRY_CONTROLS, entry);
        }
        _ => {
            // A host of 64-bit mode has to be one, and only it may have a guest of IA-32e mode.
            case.put(f::VM_EXIT_CONTROLS, exit & !u64::from(vmx::EXIT_HOST64));
            let entry = shake(
                case,
                rd(f::VM_ENTRY_CONTROLS),
                u64::from(vmx::ENTRY_IA32E),
                2,
            );
            case.put(f::VM_ENTRY_CONTROLS, entry);
        }
    }
}

/// The TPR threshold, with the controls without which it does not count. DR7.
fn tpr(case: &mut Case) {
    let virtual_tpr = case.random.one_of(&[0, 0x10, 0x5f, 0xf0]);
    cpu::poke(APIC.get() + 0x80, virtual_tpr);
    case.note(APIC.get(), virtual_tpr);
    let threshold = case.random.one_of(&[0, 1, 5, 6, 15, 16, 1 << 31]);
    case.put(f::TPR_THRESHOLD, threshold);
    let cpu = u64::from(vmx::CPU_TPR_SHADOW);
    let cpu = shake(case, rd(f::CPU_BASED_VM_EXEC_CONTROL) | cpu, cpu, 4);
    case.put(f::CPU_BASED_VM_EXEC_CONTROL, cpu);
    let cpu2 = u64::from(vmx::CPU2_APIC_ACCESS | vmx::CPU2_X2APIC);
    let cpu2 = shake(case, rd(f::SECONDARY_VM_EXEC_CONTROL), cpu2, 3);
    case.put(f::SECONDARY_VM_EXEC_CONTROL, cpu2);
    let access = case.random.one_of(&[APIC.get(), APIC.get() | 0x80]);
    case.put(f::APIC_ACCESS_ADDR, access);
    let dr7 = case.random.one_of(&[0x400, 0xffff_ffff, 1 << 32, !0]);
    case.put(f::GUEST_DR7, dr7);
    let entry = shake(
        case,
        rd(f::VM_ENTRY_CONTROLS),
        u64::from(vmx::ENTRY_LOAD_DEBUG),
        3,
    );
    case.put(f::VM_ENTRY_CONTROLS, entry);
}

/// Undoes what is not in the VMCS.
pub fn tidy() {
    cpu::poke(APIC.get() + 0x80, 0);
}
