// SPDX-License-Identifier: GPL-2.0

//! Guest code: random sequences of instructions that exit, or do anything at all.

use super::rng::Rng;

/// Instructions, most of which mean the same in every mode.
const PIECES: &[&[u8]] = &[
    &[0xe6, 0x10],                   // out 0x10, al
    &[0xe7, 0xe1],                   // out 0xe1, eax
    &[0xe4, 0x60],                   // in al, 0x60
    &[0xf3, 0x6e],                   // rep outsb
    &[0xf3, 0x6c],                   // rep insb
    &[0xf4],                         // hlt
    &[0xfb],                         // sti
    &[0xfa],                         // cli
    &[0x0f, 0xa2],                   // cpuid
    &[0x0f, 0x31],                   // rdtsc
    &[0x0f, 0x32],                   // rdmsr
    &[0x0f, 0x30],                   // wrmsr
    &[0x0f, 0x08],                   // invd
    &[0x0f, 0x09],                   // wbinvd
    &[0x0f, 0x01, 0xc1],             // vmcall
    &[0x0f, 0x01, 0xc2],             // vmlaunch
    &[0x0f, 0x01, 0xc3],             // vmresume
    &[0x0f, 0x01, 0xc4],             // vmxoff
    &[0xf3, 0x0f, 0xc7, 0x37],       // vmxon [rdi]
    &[0x0f, 0xc7, 0x37],             // vmptrld [rdi]
    &[0x66, 0x0f, 0xc7, 0x37],       // vmclear [rdi]
    &[0x0f, 0x78, 0xc1],             // vmread rcx, rax
    &[0x0f, 0x79, 0xc1],             // vmwrite rax, rcx
    &[0x66, 0x0f, 0x38, 0x80, 0x07], // invept rax, [rdi]
    &[0x66, 0x0f, 0x38, 0x81, 0x07], // invvpid rax, [rdi]
    &[0x0f, 0x01, 0xd1],             // xsetbv
    &[0x0f, 0x20, 0xc0],             // mov eax, cr0
    &[0x0f, 0x22, 0xc0],             // mov cr0, eax
    &[0x0f, 0x22, 0xd8],             // mov cr3, eax
    &[0x0f, 0x22, 0xe0],             // mov cr4, eax
    &[0x0f, 0x01, 0x38],             // invlpg [eax]
    &[0x0f, 0x23, 0xf8],             // mov dr7, eax
    &[0x0f, 0x21, 0xf0],             // mov eax, dr6
    &[0x89, 0x07],                   // mov [edi], eax
    &[0x8b, 0x07],                   // mov eax, [edi]
    &[0x87, 0x07],                   // xchg [edi], eax
    &[0xf3, 0xa4],                   // rep movsb
    &[0xf3, 0xab],                   // rep stosd
    &[0x0f, 0xb1, 0x0f],             // cmpxchg [edi], ecx
    &[0xcf],                         // iret
    &[0x9d],                         // popf
    &[0x0f, 0x0b],                   // ud2
    &[0xcc],                         // int3
    &[0x8e, 0xd8],                   // mov ds, ax
    &[0x8e, 0xd0],                   // mov ss, ax
    &[0xeb, 0x00],                   // jmp to the next
    &[0xeb, 0xf0],                   // jmp back
    &[0x31, 0xc0],                   // xor eax, eax
    &[0xf3, 0x90],                   // pause
    &[0x0f, 0x00, 0xd8],             // ltr ax
    &[0x0f, 0xae, 0x07],             // fxsave [edi]
    &[0x67, 0xc5, 0xfc, 0x11, 0x07], // vmovups [edi], ymm0
];

/// What a register is loaded with: MSRs, devices, fields, control registers.
const IMMEDIATES: &[u32] = &[
    0x0,
    0x1,
    0x10,
    0x1b,
    0x20,
    0x3a,
    0x3b,
    0x48,
    0x174,
    0x277,
    0x480,
    0x48b,
    0x6e0,
    0x80b,
    0x830,
    0x80f,
    0x4000,
    0x681e,
    0x2_0000,
    0x2_1000,
    0x2_2000,
    0x600,
    0x2620,
    0x31,
    0x8000_0031,
    0x1000_0000,
    0xfec0_0000,
    0xfee0_0000,
    0xfee0_0300,
    0xc000_0080,
    0xc000_0100,
    0x4b56_4d00,
    0x4b56_4d01,
    0xffff_ffff,
];

/// Guest code of no more than a page.
pub fn random(rng: &mut Rng) -> Vec<u8> {
    let mut code = Vec::new();
    for _ in 0..4 + rng.below(60) {
        match rng.below(8) {
            0..=2 => {
                // mov eax, ecx, edx, ebx, esi or edi: a number.
                code.push(0xb8 + *rng.pick(&[0, 1, 2, 3, 6, 7, 7, 7]));
                code.extend(rng.pick(IMMEDIATES).to_le_bytes());
            }
            3 if rng.one_in(4) => code.extend(rng.bits().to_le_bytes()),
            3 => code.extend([0xcd, rng.bits() as u8]), // int
            _ => code.extend(*rng.pick(PIECES)),
        }
    }
    code.extend([0xf4, 0xeb, 0xfd]); // hlt; jmp to it
    code
}
