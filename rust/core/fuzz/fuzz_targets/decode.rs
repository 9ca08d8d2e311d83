// SPDX-License-Identifier: GPL-2.0

//! The decoder on arbitrary bytes: it must not panic, and its answer must depend on nothing but the
//! bytes of the instruction.

#![no_main]

use burrow_core::x86::emulate::{
    decode,
    CodeSize,
    DecodeError,
    MAX_LEN, //
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for size in [CodeSize::Bits16, CodeSize::Bits32, CodeSize::Bits64] {
        match decode(bytes, size) {
            Ok(insn) => {
                let len = usize::from(insn.len);
                assert!(len <= MAX_LEN.min(bytes.len()));
                assert_eq!(decode(&bytes[..len], size), Ok(insn));
                assert_eq!(
                    decode(&bytes[..len - 1], size),
                    Err(DecodeError::NeedMoreBytes)
                );
            }
            Err(DecodeError::NeedMoreBytes) => assert!(bytes.len() < MAX_LEN),
            Err(_) => {}
        }
    }
});
