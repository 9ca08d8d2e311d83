// SPDX-License-Identifier: GPL-2.0

//! Exit reasons, written into `struct kvm_run`.

use crate::arch::outcome::{
    Direction,
    UserExit, //
    INTERNAL_WORDS,
};
use burrow_sys::{
    run_page::SharedPage,
    uapi::*, //
};
use core::mem::offset_of;

/// The offset of a field of the union in `struct kvm_run`.
macro_rules! at {
    ($($field:ident).+) => {
        offset_of!(kvm_run, __bindgen_anon_1.$($field).+)
    };
}

/// The page of the PIO data among the pages that userspace maps, as an offset in bytes.
const PIO_PAGE: u64 = 4096;

/// Writes `exit`.
pub(super) fn write(run: &SharedPage, exit: &UserExit) {
    let reason = match *exit {
        UserExit::Io {
            direction,
            port,
            size,
            count,
        } => {
            let out = u8::from(direction == Direction::Write);
            run.write(at!(io.direction), out);
            run.write(at!(io.size), size);
            run.write(at!(io.port), port);
            run.write(at!(io.count), count);
            run.write(at!(io.data_offset), PIO_PAGE);
            KVM_EXIT_IO
        }
        UserExit::Mmio {
            direction,
            address,
            data,
            len,
        } => {
            run.write(at!(mmio.phys_addr), address);
            run.write_bytes(at!(mmio.data), &data);
            run.write(at!(mmio.len), u32::from(len));
            run.write(at!(mmio.is_write), u8::from(direction == Direction::Write));
            KVM_EXIT_MMIO
        }
        UserExit::Hlt => KVM_EXIT_HLT,
        UserExit::Intr => KVM_EXIT_INTR,
        UserExit::IrqWindowOpen => KVM_EXIT_IRQ_WINDOW_OPEN,
        UserExit::Shutdown => KVM_EXIT_SHUTDOWN,
        UserExit::DirtyRingFull => KVM_EXIT_DIRTY_RING_FULL,
        UserExit::SetTpr => KVM_EXIT_SET_TPR,
        UserExit::TprAccess(access) => {
            let is_write = access.direction == Direction::Write;
            run.write(at!(tpr_access.rip), access.rip);
            run.write(at!(tpr_access.is_write), u32::from(is_write));
            KVM_EXIT_TPR_ACCESS
        }
        UserExit::IoapicEoi { vector } => {
            run.write(at!(eoi.vector), vector);
            KVM_EXIT_IOAPIC_EOI
        }
        UserExit::FailEntry { reason, cpu } => {
            run.write(at!(fail_entry.hardware_entry_failure_reason), reason);
            run.write(at!(fail_entry.cpu), cpu);
            KVM_EXIT_FAIL_ENTRY
        }
        UserExit::InternalError {
            suberror,
            data,
            count,
        } => {
            internal_error(run, suberror, &data, count);
            KVM_EXIT_INTERNAL_ERROR
        }
        UserExit::Msr {
            direction,
            reason,
            index,
            data,
        } => {
            run.write(at!(msr.error), 0u8);
            run.write(at!(msr.reason), reason);
            run.write(at!(msr.index), index);
            run.write(at!(msr.data), data);
            match direction {
                Direction::Read => KVM_EXIT_X86_RDMSR,
                Direction::Write => KVM_EXIT_X86_WRMSR,
            }
        }
        UserExit::Debug {
            exception,
            pc,
            dr6,
            dr7,
        } => {
            run.write(at!(debug.arch.exception), u32::from(exception));
            run.write(at!(debug.arch.pc), pc);
            run.write(at!(debug.arch.dr6), dr6);
            run.write(at!(debug.arch.dr7), dr7);
            KVM_EXIT_DEBUG
        }
    };
    run.write(offset_of!(kvm_run, exit_reason), reason);
}

fn internal_error(run: &SharedPage, suberror: u32, data: &[u64; INTERNAL_WORDS], count: u32) {
    run.write(at!(internal.suberror), suberror);
    run.write(at!(internal.ndata), count);
    for (i, word) in data.iter().enumerate().take(count as usize) {
        run.write(at!(internal.data) + 8 * i, *word);
    }
}

/// Reads back what userspace answered to [`UserExit::Msr`]: the value, or `None` for #GP(0).
pub(super) fn msr_answer(run: &SharedPage) -> Option<u64> {
    (run.read::<u8>(at!(msr.error)) == 0).then(|| run.read(at!(msr.data)))
}

/// Reads back the data of a finished [`UserExit::Mmio`] read.
pub(super) fn mmio_data(run: &SharedPage) -> [u8; 8] {
    run.read::<u64>(at!(mmio.data)).to_le_bytes()
}
