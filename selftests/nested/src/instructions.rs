// SPDX-License-Identifier: GPL-2.0

//! The instructions of VMX in root operation and outside of it: success,
//! failures with their numbers, faults.

use burrow_core::x86::vmx::field as f;

use crate::{
    cpu::{
        self,
        page,
        poke32,
        Fault,
        Trial,
        STATUS_FLAGS, //
    },
    vmx::{
        self,
        invept,
        invvpid,
        rd,
        vmclear,
        vmptrld,
        vmptrst,
        vmread,
        vmwrite,
        vmxoff,
        vmxon,
        wr,
        Outcome, //
    },
};

code! {
    try_vmxon: "vmxon [rax]", "ret";
    try_vmxoff: "vmxoff", "ret";
    try_vmclear: "vmclear [rax]", "ret";
    try_vmptrld: "vmptrld [rax]", "ret";
    try_vmptrst: "vmptrst [rax]", "ret";
    try_vmread: "vmread rcx, rdx", "ret";
    try_vmwrite: "vmwrite rdx, rcx", "ret";
    try_vmread_memory: "vmread [rax], rdx", "ret";
    try_vmwrite_memory: "vmwrite rdx, [rax]", "ret";
    try_vmlaunch: "vmlaunch", "ret";
    try_vmresume: "vmresume", "ret";
    try_vmfunc: "vmfunc", "ret";
    try_invept: "invept rcx, [rax]", "ret";
    try_invvpid: "invvpid rcx, [rax]", "ret";
    // With an operand relative to the stack.
    stack_vmxon: "push rbp", "mov rbp, rax", "vmxon [rbp]", "pop rbp", "ret";
    stack_vmclear: "push rbp", "mov rbp, rax", "vmclear [rbp]", "pop rbp", "ret";
    stack_vmptrld: "push rbp", "mov rbp, rax", "vmptrld [rbp]", "pop rbp", "ret";
    stack_vmptrst: "push rbp", "mov rbp, rax", "vmptrst [rbp]", "pop rbp", "ret";
    stack_vmread: "push rbp", "mov rbp, rax", "vmread [rbp], rdx", "pop rbp", "ret";
    stack_vmwrite: "push rbp", "mov rbp, rax", "vmwrite rdx, [rbp]", "pop rbp", "ret";
    stack_invept: "push rbp", "mov rbp, rax", "invept rcx, [rbp]", "pop rbp", "ret";
    stack_invvpid: "push rbp", "mov rbp, rax", "invvpid rcx, [rbp]", "pop rbp", "ret";
    // Forms of operands.
    form_scaled: "vmptrst [rax + rcx * 8 + 0x10]", "ret";
    form_negative: "vmptrst [rax + rcx * 4 - 0x1000]", "ret";
    form_narrow: "vmptrst [eax + ecx]", "ret";
    form_absolute: "vmptrst [0x9000]", "ret";
    form_gs: "vmptrst gs:[rax]", "ret";
    form_read_r9: "mov r9, rdx", "vmread [rax + rcx * 2], r9", "ret";
    form_write_r9: "mov r9, rdx", "mov r10, rcx", "vmwrite r9, r10", "ret";
    form_read_r10: "mov r9, rdx", "vmread r10, r9", "mov rcx, r10", "ret";
    // To CPL 3 and to the instruction there; the way back is by the fault.
    user: "mov r8, rsp", "push 0x3b", "push r8", "push 0x3002", "push 0x33", "push rcx", "iretq";
    // Blocked by MOV SS.
    blocked_launch: "mov eax, ss", "mov ss, eax", "vmlaunch", "ret";
    blocked_resume: "mov eax, ss", "mov ss, eax", "vmresume", "ret";
    // To compatibility mode.
    compatible: "push 0x18", "push rcx", "rex64 retf";
    compatible_vmxon: ".code32", "vmxon [eax]", "ud2";
    compatible_vmread: ".code32", "vmread ecx, edx", "ud2";
    compatible_launch: ".code32", "vmlaunch", "ud2";
}

type Code = unsafe extern "C" fn();

/// The instructions with a memory operand, or none, in their plain form.
const ALL: &[(&str, Code)] = &[
    ("vmxon", try_vmxon),
    ("vmxoff", try_vmxoff),
    ("vmclear", try_vmclear),
    ("vmptrld", try_vmptrld),
    ("vmptrst", try_vmptrst),
    ("vmread", try_vmread),
    ("vmwrite", try_vmwrite),
    ("vmread-memory", try_vmread_memory),
    ("vmwrite-memory", try_vmwrite_memory),
    ("vmlaunch", try_vmlaunch),
    ("vmresume", try_vmresume),
    ("vmfunc", try_vmfunc),
    ("invept", try_invept),
    ("invvpid", try_invvpid),
];

/// What came of an attempt: a fault, or what the flags say.
fn tell(name: &str, case: &str, mut trial: Trial) {
    trial.flags = 2 | STATUS_FLAGS;
    match trial.run() {
        Ok(()) => say!("{name}.{case}", "{}", Outcome::of(trial.flags)),
        Err(Fault(14, error)) => say!("{name}.{case}", "#PF({error:x}) address {:x}", trial.cr2),
        Err(fault) => say!(
            "{name}.{case}",
            "{fault} flags {:x}",
            trial.flags & STATUS_FLAGS
        ),
    }
}

/// A page, and its address in a page: an operand for instructions that take one.
fn pointer_to(address: u64) -> u64 {
    let operand = page();
    cpu::poke(operand, address);
    operand
}

/// Outside of VMX operation everything is #UD, whatever else is wrong; VMXON
/// needs CR4.VMXE.
pub fn outside() {
    vmx::allow();
    let operand = pointer_to(0);
    for (name, code) in ALL.iter().filter(|(name, _)| *name != "vmxon") {
        tell(
            "outside.allowed",
            name,
            Trial::new(*code).with(operand, 1, 0x681e),
        );
    }
    cpu::set_cr4(cpu::cr4() & !vmx::VMXE);
    for (name, code) in ALL {
        tell(
            "outside.no-vmxe",
            name,
            Trial::new(*code).with(operand, 1, 0x681e),
        );
    }
}

/// What VMXON takes.
fn vmxon_cases(operand: u64) {
    let width = cpu::physical_width();
    let good = vmx::region();
    let case = |name, address| {
        cpu::poke(operand, address);
        say!("vmxon.{name}", "{}", vmxon(cpu::peek(operand)));
    };
    case("misaligned", good + 8);
    case("misaligned-2048", good + 0x800);
    case("too-wide", 1 << width | good);
    case("bit-63", 1 << 63 | good);
    poke32(good, vmx::revision() ^ 1);
    case("other-revision", good);
    poke32(good, vmx::revision() | 1 << 31);
    case("shadow", good);
    poke32(good, vmx::revision());
}

/// VMXON: conditions, faults, and that of VMX operation.
pub fn vmxon_group() {
    vmx::allow();
    let operand = page();
    vmxon_cases(operand);
    let good = vmx::region();
    cpu::poke(operand, good);
    // Bits of CR0 and CR4 that must have a value.
    let cr0 = cpu::cr0();
    cpu::set_cr0(cr0 & !0x20);
    tell("vmxon", "no-ne", Trial::new(try_vmxon).with(operand, 0, 0));
    cpu::set_cr0(cr0);
    tell(
        "vmxon",
        "user",
        Trial::new(user).with(operand, crate::l2::at(try_vmxon), 0),
    );
    tell(
        "vmxon",
        "compatible",
        Trial::new(compatible).with(operand, crate::l2::at(compatible_vmxon), 0),
    );
    tell(
        "vmxon",
        "not-canonical",
        Trial::new(try_vmxon).with(1 << 63, 0, 0),
    );
    tell(
        "vmxon",
        "not-canonical-stack",
        Trial::new(stack_vmxon).with(1 << 63, 0, 0),
    );
    tell(
        "vmxon",
        "not-mapped",
        Trial::new(try_vmxon).with(0x1_2345_6788, 0, 0),
    );
    tell(
        "vmxon",
        "register",
        Trial::new(try_vmxon).with(operand, 0, 0),
    );
    // In VMX operation it fails, whatever its operand.
    say!("vmxon.again", "{}", vmxon(good));
    say!("vmxon.again-misaligned", "{}", vmxon(good + 8));
    tell(
        "vmxon",
        "again-user",
        Trial::new(user).with(operand, crate::l2::at(try_vmxon), 0),
    );
    tell(
        "vmxon",
        "again-not-mapped",
        Trial::new(try_vmxon).with(0x1_2345_6788, 0, 0),
    );
    let vmcs = vmx::region();
    say!("vmxon.then-vmptrld", "{}", vmptrld(vmcs));
    say!("vmxon.again-with-vmcs", "{}", vmxon(good));
    say!("vmxon.cr4", "{}", clear_vmxe());
    say!("vmxon.vmxoff", "{}", vmxoff());
    tell("vmxon", "vmxoff-again", Trial::new(try_vmxoff));
    say!("vmxon.cr4-after", "{}", clear_vmxe());
    code! { write_feature_control: "wrmsr", "ret"; }
    let mut write = Trial::new(write_feature_control).with(0, u64::from(vmx::FEATURE_CONTROL), 0);
    match write.run() {
        Ok(()) => say!("vmxon.locked", "written"),
        Err(fault) => say!("vmxon.locked", "{fault}"),
    }
}

/// Whether CR4.VMXE can be cleared.
fn clear_vmxe() -> &'static str {
    code! { write_cr4: "mov cr4, rax", "ret"; }
    match Trial::new(write_cr4)
        .with(cpu::cr4() & !vmx::VMXE, 0, 0)
        .run()
    {
        Ok(()) => "cleared",
        Err(_) => "refused",
    }
}

/// VMCLEAR, VMPTRLD, VMPTRST: which pointers they take, and which VMCS is current after.
pub fn pointers() {
    let on = vmx::on();
    let width = cpu::physical_width();
    let (a, b) = (vmx::region(), vmx::region());
    let is = |address: u64| match address {
        _ if address == a => "a",
        _ if address == b => "b",
        _ if address == !0 => "none",
        _ => "other",
    };
    let current = || is(vmptrst().1);
    say!("vmptr.at-first", "{} {}", vmptrst().0, current());
    let bad = [
        ("zero-misaligned", 1),
        ("misaligned", a + 0x10),
        ("misaligned-2048", a + 0x800),
        ("too-wide", 1 << width | a),
        ("bit-63", 1 << 63 | a),
        ("ones", !0),
        ("vmxon", on),
    ];
    for (name, address) in bad {
        say!("vmptr.vmclear-{name}-no-current", "{}", vmclear(address));
        say!("vmptr.vmptrld-{name}-no-current", "{}", vmptrld(address));
    }
    say!(
        "vmptr.vmread-no-current",
        "{}",
        Outcome::of(vmread(0x681e).0)
    );
    say!(
        "vmptr.vmread-unknown-no-current",
        "{}",
        Outcome::of(vmread(0x1ffe).0)
    );
    say!(
        "vmptr.vmwrite-no-current",
        "{}",
        Outcome::of(vmwrite(0x681e, 0))
    );
    for (name, code) in [
        ("vmlaunch", try_vmlaunch as Code),
        ("vmresume", try_vmresume),
    ] {
        tell("vmptr.no-current", name, Trial::new(code));
    }
    say!("vmptr.vmclear-a", "{}", vmclear(a));
    say!("vmptr.vmptrld-a", "{} {}", vmptrld(a), current());
    for (name, address) in bad {
        say!("vmptr.vmclear-{name}", "{} {}", vmclear(address), current());
        say!("vmptr.vmptrld-{name}", "{} {}", vmptrld(address), current());
    }
    poke32(b, vmx::revision() ^ 0x100);
    say!("vmptr.vmptrld-revision", "{} {}", vmptrld(b), current());
    poke32(b, vmx::revision() | 1 << 31);
    let has_shadows = vmx::has_secondary(vmx::CPU2_SHADOWING);
    say!(
        "vmptr.vmptrld-shadow",
        "{} {}",
        vmptrld(b),
        if has_shadows { current() } else { "-" }
    );
    if has_shadows {
        for (name, code) in [
            ("vmlaunch", try_vmlaunch as Code),
            ("vmresume", try_vmresume),
        ] {
            tell("vmptr.shadow", name, Trial::new(code));
        }
    }
    let _ = vmclear(b);
    poke32(b, vmx::revision());
    say!("vmptr.vmptrld-b", "{} {}", vmptrld(b), current());
    say!("vmptr.vmclear-other", "{} {}", vmclear(a), current());
    say!("vmptr.vmclear-current", "{} {}", vmclear(b), current());
    say!("vmptr.vmptrld-back", "{} {}", vmptrld(a), current());
}

/// All status flags are set by each instruction, whatever they were.
pub fn flags() {
    vmx::guest();
    let operand = pointer_to(vmx::vmcs());
    let (bad, descriptor) = (pointer_to(3), page());
    for before in [0, STATUS_FLAGS] {
        for (name, code, rax, rcx, rdx) in [
            ("vmptrld", try_vmptrld as Code, operand, 0, 0),
            ("vmptrld-fails", try_vmptrld, bad, 0, 0),
            ("vmclear-fails", try_vmclear, bad, 0, 0),
            ("vmptrst", try_vmptrst, operand, 0, 0),
            ("vmread", try_vmread, 0, 0, 0x681e),
            ("vmread-fails", try_vmread, 0, 0, 0x1ffe),
            ("vmwrite", try_vmwrite, 0, 0, 0x681e),
            ("vmwrite-fails", try_vmwrite, 0, 0, 0x1ffe),
            ("vmresume-fails", try_vmresume, 0, 0, 0),
            ("invept", try_invept, descriptor, 2, 0),
            ("invept-fails", try_invept, descriptor, 9, 0),
            ("invvpid", try_invvpid, descriptor, 2, 0),
            ("invvpid-fails", try_invvpid, descriptor, 9, 0),
            ("vmclear", try_vmclear, operand, 0, 0),
            ("vmread-invalid", try_vmread, 0, 0, 0x681e),
            ("vmptrld-invalid", try_vmptrld, bad, 0, 0),
            ("vmlaunch-invalid", try_vmlaunch, 0, 0, 0),
            ("vmptrld-again", try_vmptrld, operand, 0, 0),
        ] {
            let mut trial = Trial::new(code).with(rax, rcx, rdx);
            trial.flags = 2 | before;
            let result = trial.run();
            let after = trial.flags & STATUS_FLAGS;
            match result {
                Ok(()) => say!(
                    "flags.{name}.{before:x}",
                    "{after:x} error {}",
                    rd(f::VM_INSTRUCTION_ERROR)
                ),
                Err(fault) => say!("flags.{name}.{before:x}", "{fault}"),
            }
        }
    }
}

/// Faults of operands, privilege, forms of addresses.
pub fn operands() {
    vmx::guest();
    let operand = pointer_to(vmx::vmcs());
    for (name, code) in ALL.iter().filter(|(name, _)| *name != "vmxoff") {
        // RCX is the code at CPL 3, RAX the operand.
        let code = crate::l2::at(*code);
        tell(
            "operands.user",
            name,
            Trial::new(user).with(operand, code, 0x681e),
        );
    }
    for (name, code) in [
        ("vmread", compatible_vmread as Code),
        ("vmlaunch", compatible_launch),
    ] {
        tell(
            "operands.compatible",
            name,
            Trial::new(compatible).with(operand, crate::l2::at(code), 0x681e),
        );
    }
    for (name, address) in [
        ("not-canonical", 1u64 << 63),
        ("not-mapped", 0x1_2345_6788),
        ("crosses", cpu::window() + 0xffc),
    ] {
        for (instruction, code) in ALL {
            let takes_operand = matches!(
                *instruction,
                "vmxon"
                    | "vmclear"
                    | "vmptrld"
                    | "vmptrst"
                    | "vmread-memory"
                    | "vmwrite-memory"
                    | "invept"
                    | "invvpid"
            );
            if takes_operand {
                tell(
                    &Join("operands", name),
                    instruction,
                    Trial::new(*code).with(address, 1, 0x681e),
                );
            }
        }
    }
    for (name, code) in [
        ("vmclear", stack_vmclear as Code),
        ("vmptrld", stack_vmptrld),
        ("vmptrst", stack_vmptrst),
        ("vmread", stack_vmread),
        ("vmwrite", stack_vmwrite),
        ("invept", stack_invept),
        ("invvpid", stack_invvpid),
    ] {
        tell(
            "operands.stack",
            name,
            Trial::new(code).with(1 << 63, 1, 0x681e),
        );
    }
    // What is wrong besides does not matter when the field does not exist, or does it?
    tell(
        "operands.unknown-field",
        "vmread-not-mapped",
        Trial::new(try_vmread_memory).with(0x1_2345_6788, 0, 0x1ffe),
    );
    tell(
        "operands.unknown-field",
        "vmwrite-not-mapped",
        Trial::new(try_vmwrite_memory).with(0x1_2345_6788, 0, 0x1ffe),
    );
    forms();
}

/// Two words with a dot between them.
struct Join<'a>(&'a str, &'a str);

impl core::ops::Deref for Join<'_> {
    type Target = str;

    /// The joined text, until the next one is made.
    fn deref(&self) -> &str {
        static TEXT: cpu::Global<[u8; 64]> = cpu::Global::new([0; 64]);
        // SAFETY: One thread; each text is used up in the statement that makes it.
        let text = unsafe { &mut *TEXT.as_ptr() };
        let bytes = self.0.bytes().chain([b'.']).chain(self.1.bytes());
        let mut length = 0;
        for (slot, byte) in text.iter_mut().zip(bytes) {
            *slot = byte;
            length += 1;
        }
        core::str::from_utf8(&text[..length]).unwrap_or("")
    }
}

/// Each form of an address reaches the operand that it means.
fn forms() {
    let vmcs = vmx::vmcs();
    let target = page();
    let form = |name: &str, code: Code, rax: u64, rcx: u64, at: u64| {
        cpu::poke(at, 0);
        let result = Trial::new(code).with(rax, rcx, 0).run();
        match result {
            Ok(()) => say!("operands.form.{name}", "{}", cpu::peek(at) == vmcs),
            Err(fault) => say!("operands.form.{name}", "{fault}"),
        }
    };
    form("scaled", form_scaled, target, 2, target + 0x20);
    form("negative", form_negative, target + 0x1000, 4, target + 0x10);
    form(
        "narrow",
        form_narrow,
        target | 1 << 40,
        1 << 33 | 0x30,
        target + 0x30,
    );
    form("absolute", form_absolute, 0, 0, 0x9000);
    cpu::wrmsr(0xc000_0101, target);
    form("gs", form_gs, 0x40, 0, target + 0x40);
    cpu::wrmsr(0xc000_0101, 0);
    wr(f::GUEST_RSP, 0x1122_3344_5566_7788);
    let rsp = u64::from(f::GUEST_RSP.encoding().0);
    let _ = Trial::new(form_read_r9).with(target, 0x40, rsp).run();
    say!("operands.form.read-r9", "{:x}", cpu::peek(target + 0x80));
    let _ = Trial::new(form_write_r9)
        .with(0, 0x8877_6655_4433_2211, rsp)
        .run();
    say!("operands.form.write-r9", "{:x}", rd(f::GUEST_RSP));
    let mut read = Trial::new(form_read_r10).with(0, 0, rsp);
    let _ = read.run();
    say!("operands.form.read-r10", "{:x}", read.registers[1]);
}

/// Launch states, and what is looked at first.
pub fn launch_state() {
    code! { end: "mov edi, 0x77", "vmcall"; }
    let tell = |name: &str, code: Code| tell("launch", name, Trial::new(code));
    vmx::guest();
    tell("resume-clear", try_vmresume);
    tell("blocked-resume-clear", blocked_resume);
    tell("blocked-launch", blocked_launch);
    // The instruction before the blocked one is all that MOV SS blocks.
    say!("launch.runs", "{}", crate::l2::run(end));
    tell("launch-launched", try_vmlaunch);
    tell("blocked-launch-launched", blocked_launch);
    tell("blocked-resume", blocked_resume);
    crate::l2::begin(end);
    say!("launch.resumes", "{}", crate::l2::go());
    // Bad controls come after a bad launch state.
    vmx::set(f::PIN_BASED_VM_EXEC_CONTROL, 1 << 31);
    tell("launch-launched-bad-controls", try_vmlaunch);
    tell("resume-bad-controls", try_vmresume);
    vmx::clear(f::PIN_BASED_VM_EXEC_CONTROL, 1 << 31);
    wr(f::HOST_CR4, 0);
    tell("resume-bad-host", try_vmresume);
    wr(f::HOST_CR4, cpu::cr4());
    wr(f::GUEST_RFLAGS, 0);
    say!("launch.resume-bad-guest", "{}", crate::l2::go());
    wr(f::GUEST_RFLAGS, 2);
    crate::l2::begin(end);
    say!("launch.resumes-after", "{}", crate::l2::go());
    // VMCLEAR makes it clear again; a refused launch leaves it clear.
    let _ = vmclear(vmx::vmcs());
    let _ = vmptrld(vmx::vmcs());
    tell("resume-cleared", try_vmresume);
    wr(f::GUEST_RFLAGS, 0);
    vmx::reset();
    wr(f::GUEST_RFLAGS, 0);
    say!("launch.bad-guest", "{}", crate::l2::go());
    tell("resume-after-bad-guest", try_vmresume);
}

/// INVEPT and INVVPID: types and descriptors.
pub fn invalidate() {
    vmx::guest();
    let eptp = rd(f::EPT_POINTER);
    let width = cpu::physical_width();
    for kind in [0, 1, 2, 3, 4, 1 << 32 | 1, !0] {
        say!("invalidate.invept.{kind:x}", "{}", invept(kind, [eptp, 0]));
        say!(
            "invalidate.invvpid.{kind:x}",
            "{}",
            invvpid(kind, [1, 0x1000])
        );
        say!(
            "invalidate.invvpid-0.{kind:x}",
            "{}",
            invvpid(kind, [0, 0x1000])
        );
    }
    for (name, kind, descriptor) in [
        ("reserved", 1, [eptp, 1]),
        ("all-reserved", 2, [eptp, 1]),
        ("memory-type", 1, [eptp & !7 | 1, 0]),
        ("walk-length", 1, [eptp & !0x38 | 8, 0]),
        ("bit-11", 1, [eptp | 1 << 11, 0]),
        ("too-wide", 1, [eptp | 1 << width, 0]),
        ("all-bad-pointer", 2, [!0, 0]),
        ("accessed-dirty", 1, [eptp | 0x40, 0]),
    ] {
        say!("invalidate.invept.{name}", "{}", invept(kind, descriptor));
    }
    for (name, kind, descriptor) in [
        ("reserved-16", 1, [1 << 16 | 1, 0]),
        ("reserved-63", 1, [1 << 63 | 1, 0]),
        ("all-reserved", 2, [1 << 16, 0]),
        ("not-canonical", 0, [1, 1 << 63]),
        ("single-not-canonical", 1, [1, 1 << 63]),
        ("keep-global-reserved", 3, [1 << 20 | 1, 0]),
        ("highest", 1, [0xffff, 0]),
    ] {
        say!("invalidate.invvpid.{name}", "{}", invvpid(kind, descriptor));
    }
}

/// Regions and operands where there is no memory, which reads as ones. Last, as upstream gives the
/// VM up.
pub fn nowhere() {
    const NOWHERE: u64 = 3 << 30;
    vmx::guest();
    let vmcs = vmx::vmcs();
    say!("nowhere.vmptrld-region", "{}", vmptrld(NOWHERE));
    say!("nowhere.vmclear-region", "{}", vmclear(NOWHERE));
    say!("nowhere.still", "{}", vmptrst().1 == vmcs);
    vmx::leave();
    vmx::allow();
    say!("nowhere.vmxon-region", "{}", vmxon(NOWHERE));
    vmx::guest();
    for (name, code, register) in [
        ("vmxon", try_vmxon as Code, 0),
        ("vmclear", try_vmclear, 0),
        ("vmptrld", try_vmptrld, 0),
        ("vmptrst", try_vmptrst, 0),
        (
            "vmread",
            try_vmread_memory,
            u64::from(f::GUEST_RIP.encoding().0),
        ),
        (
            "vmwrite",
            try_vmwrite_memory,
            u64::from(f::GUEST_RIP.encoding().0),
        ),
        ("invept", try_invept, 1),
        ("invvpid", try_invvpid, 1),
    ] {
        let mut trial = Trial::new(code);
        trial.registers[0] = NOWHERE;
        trial.registers[1] = register;
        trial.registers[2] = register;
        tell("nowhere", name, trial);
    }
    say!("nowhere.written", "{:x}", rd(f::GUEST_RIP));
}
