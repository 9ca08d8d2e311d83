// SPDX-License-Identifier: GPL-2.0

//! Ioctls of a VM's fd for the interrupt controllers and the timer in the kernel.

use crate::arch::{
    chip_io,
    pit::{
        PitDevice,
        SpeakerPort, //
    },
    vm::{
        IrqChip,
        Vm, //
    },
};
use burrow_core::{
    irqroute::XenRoutes,
    x86::irqchip::{
        ioapic::{
            Tracking,
            IOAPIC_STATE_SIZE, //
        },
        line::{
            LineLevel,
            LineStatus,
            Source, //
        },
        msi,
        pic::{
            Chip,
            PicState,
            PIC_STATE_SIZE, //
        },
        pit::{
            ChannelState,
            CHANNEL_STATE_SIZE, //
        },
    },
};
use burrow_sys::uapi::{
    self,
    *, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// The size of `struct kvm_irqchip`.
const CHIP_SIZE: usize = core::mem::size_of::<kvm_irqchip>();
/// The offset of a controller's state in it.
const CHIP_STATE: usize = 8;
/// The size of the channels in `struct kvm_pit_state` and `struct kvm_pit_state2`.
const CHANNELS_SIZE: usize = 3 * CHANNEL_STATE_SIZE;
const _: () = assert!(core::mem::size_of::<kvm_pit_state>() == CHANNELS_SIZE);
/// The size of `struct kvm_pit_state2`, whose flags follow the channels.
const PIT2_SIZE: usize = core::mem::size_of::<kvm_pit_state2>();

/// `KVM_CREATE_IRQCHIP`.
///
/// # Errors
///
/// `EEXIST` with a controller in the kernel, `EINVAL` with a vCPU, `ENOSPC` when a bus is full, `ENOMEM`
/// when there is no memory.
pub(super) fn create(vm: &Vm) -> Result {
    let mut setup = vm.setup.lock();
    if setup.irqchip != IrqChip::None {
        return Err(EEXIST);
    }
    if vm.vcpus.len() != 0 {
        return Err(EINVAL);
    }
    let full = IrqChip::Full;
    let policy = msi::policy(full.io_apic(), vm.apics.msi_format(), XenRoutes::Refused);
    vm.routing.set_default(&policy)?;
    chip_io::register(&vm.devices, &vm.acks)?;
    setup.irqchip = full;
    Ok(())
}

/// # Errors
///
/// `ENXIO` without an I/O APIC in the kernel.
fn needs_chips(vm: &Vm) -> Result {
    match vm.irqchip() {
        IrqChip::Full => Ok(()),
        IrqChip::None | IrqChip::Split { .. } => Err(ENXIO),
    }
}

/// `KVM_GET_IRQCHIP`.
///
/// # Errors
///
/// `ENXIO` without an I/O APIC in the kernel, `EINVAL` for an unknown controller.
pub(super) fn get(vm: &Vm, arg: usize) -> Result {
    let mut bytes = uapi::read_bytes(arg, CHIP_SIZE)?;
    needs_chips(vm)?;
    // The same that is written back, whatever userspace has there now.
    let chip_id = u32::from_le_bytes(*bytes.first_chunk().ok_or(EINVAL)?);
    let chips = &vm.chips;
    let state = bytes.get_mut(CHIP_STATE..).ok_or(EINVAL)?;
    match chip_id {
        KVM_IRQCHIP_PIC_MASTER => fill(state, &chips.save_pic(Chip::Master).to_bytes()),
        KVM_IRQCHIP_PIC_SLAVE => fill(state, &chips.save_pic(Chip::Slave).to_bytes()),
        KVM_IRQCHIP_IOAPIC => fill(state, &chips.save_ioapic()),
        _ => return Err(EINVAL),
    }
    uapi::write_bytes(arg, &bytes)
}

fn fill(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}

/// `KVM_SET_IRQCHIP`.
///
/// # Errors
///
/// As [`get()`].
pub(super) fn set(vm: &Vm, chip: &kvm_irqchip) -> Result {
    needs_chips(vm)?;
    let state = chip.as_bytes().get(CHIP_STATE..).ok_or(EINVAL)?;
    let pic = || -> Result<PicState> {
        let bytes: &[u8; PIC_STATE_SIZE] = state.first_chunk().ok_or(EINVAL)?;
        Ok(PicState::from_bytes(bytes))
    };
    match chip.chip_id {
        KVM_IRQCHIP_PIC_MASTER => vm.chips.load_pic(Chip::Master, pic()?),
        KVM_IRQCHIP_PIC_SLAVE => vm.chips.load_pic(Chip::Slave, pic()?),
        KVM_IRQCHIP_IOAPIC => {
            let bytes: &[u8; IOAPIC_STATE_SIZE] = state.first_chunk().ok_or(EINVAL)?;
            vm.chips.load_ioapic(bytes);
        }
        _ => return Err(EINVAL),
    }
    Ok(())
}

/// `KVM_IRQ_LINE`: the line, and its level.
///
/// # Errors
///
/// `ENXIO` without local APICs in the kernel.
pub(super) fn set_line(vm: &Vm, args: &[u32; 2]) -> Result {
    drive(vm, args, Tracking::Off)?;
    Ok(())
}

/// `KVM_IRQ_LINE_STATUS`: as [`set_line()`], and writes the status where the line was.
///
/// # Errors
///
/// As [`set_line()`].
pub(super) fn set_line_status(vm: &Vm, arg: usize) -> Result {
    let args: [u32; 2] = uapi::read(arg)?;
    let status = drive(vm, &args, Tracking::On)?.to_abi();
    let [_, level] = args;
    // CAST: the status is a C int in a union with the line.
    uapi::write(arg, &[status as u32, level])
}

fn drive(vm: &Vm, args: &[u32; 2], tracking: Tracking) -> Result<LineStatus> {
    if vm.irqchip() == IrqChip::None {
        return Err(ENXIO);
    }
    let [gsi, level] = *args;
    let level = LineLevel::from_bit(level != 0);
    Ok(vm.routing.set_line(gsi, Source::Userspace, level, tracking))
}

/// `KVM_CREATE_PIT2`.
///
/// # Errors
///
/// As [`create_pit()`].
pub(super) fn create_pit2(vm: &Vm, config: &kvm_pit_config) -> Result {
    create_pit(vm, config.flags)
}

/// `KVM_CREATE_PIT`, and the rest of `KVM_CREATE_PIT2`. Unknown flags mean nothing.
///
/// # Errors
///
/// `EEXIST` with a PIT, `ENOENT` without an I/O APIC in the kernel, `ENOMEM` when there is no memory or
/// the bus is full.
pub(super) fn create_pit(vm: &Vm, flags: u32) -> Result {
    let setup = vm.setup.lock();
    let mut pit = vm.pit.lock();
    if pit.is_some() {
        return Err(EEXIST);
    }
    if setup.irqchip != IrqChip::Full {
        return Err(ENOENT);
    }
    let speaker = match flags & KVM_PIT_SPEAKER_DUMMY {
        0 => SpeakerPort::Absent,
        _ => SpeakerPort::Present,
    };
    let created = PitDevice::create(&vm.devices, &vm.acks, speaker);
    *pit = Some(created.map_err(|_| ENOMEM)?);
    Ok(())
}

/// # Errors
///
/// `ENXIO` without a PIT.
fn pit_of(vm: &Vm) -> Result<Arc<PitDevice>> {
    vm.pit.lock().clone().ok_or(ENXIO)
}

/// `KVM_GET_PIT`.
///
/// # Errors
///
/// `ENXIO` without a PIT.
pub(super) fn get_pit(vm: &Vm, arg: usize) -> Result {
    let (channels, _) = pit_of(vm)?.save();
    uapi::write_bytes(arg, &bytes_of(&channels))
}

/// `KVM_SET_PIT`.
///
/// # Errors
///
/// `ENXIO` without a PIT.
pub(super) fn set_pit(vm: &Vm, state: &kvm_pit_state) -> Result {
    pit_of(vm)?.load(&channels_of(state.as_bytes()), None);
    Ok(())
}

/// `KVM_GET_PIT2`.
///
/// # Errors
///
/// `ENXIO` without a PIT.
pub(super) fn get_pit2(vm: &Vm, arg: usize) -> Result {
    let (channels, flags) = pit_of(vm)?.save();
    let mut bytes = [0; PIT2_SIZE];
    let all = Iterator::chain(bytes_of(&channels).into_iter(), flags.to_le_bytes());
    for (to, from) in bytes.iter_mut().zip(all) {
        *to = from;
    }
    uapi::write_bytes(arg, &bytes)
}

/// `KVM_SET_PIT2`.
///
/// # Errors
///
/// `ENXIO` without a PIT.
pub(super) fn set_pit2(vm: &Vm, state: &kvm_pit_state2) -> Result {
    pit_of(vm)?.load(&channels_of(state.as_bytes()), Some(state.flags));
    Ok(())
}

fn bytes_of(channels: &[ChannelState; 3]) -> [u8; CHANNELS_SIZE] {
    let mut bytes = [0; CHANNELS_SIZE];
    for (to, channel) in bytes.chunks_exact_mut(CHANNEL_STATE_SIZE).zip(channels) {
        to.copy_from_slice(&channel.to_bytes());
    }
    bytes
}

fn channels_of(bytes: &[u8]) -> [ChannelState; 3] {
    let mut chunks = bytes.chunks_exact(CHANNEL_STATE_SIZE);
    core::array::from_fn(|_| {
        let bytes = chunks.next().and_then(<[u8]>::first_chunk);
        bytes.map_or(ChannelState::default(), ChannelState::from_bytes)
    })
}

/// `KVM_REINJECT_CONTROL`.
///
/// # Errors
///
/// `ENXIO` without a PIT.
pub(super) fn control_reinject(vm: &Vm, control: &kvm_reinject_control) -> Result {
    pit_of(vm)?;
    vm.acks.set_reinject(control.pit_reinject != 0);
    Ok(())
}
