// SPDX-License-Identifier: GPL-2.0

//! `/dev/kvm`, VMs, vCPUs and guest memory: thin owners of what the kernel gave.

use kvm_bindings::*;
use std::{
    fs::File,
    os::fd::{
        AsRawFd,
        FromRawFd,
        OwnedFd,
        RawFd, //
    },
    ptr, //
};

use crate::{
    harness::skip,
    ioctl::*, //
};

/// Size of a page.
pub const PAGE: u64 = 0x1000;

/// Opens `/dev/kvm`.
pub fn open() -> File {
    File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .expect("/dev/kvm")
}

/// Value of a capability, asked of the system.
pub fn capability(cap: u32) -> i32 {
    open()
        .ioctl(KVM_CHECK_EXTENSION, u64::from(cap))
        .expect("KVM_CHECK_EXTENSION")
}

/// Skips the test when KVM has not got `cap`.
pub fn require(cap: u32, name: &str) {
    if capability(cap) <= 0 {
        skip(&format!("no {name}"));
    }
}

/// Owns a file descriptor that the kernel returned.
pub fn own(fd: i32) -> OwnedFd {
    // SAFETY: An ioctl has just made the descriptor for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A virtual machine.
pub struct Vm(pub OwnedFd);

impl AsRawFd for Vm {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Vm {
    /// Creates a VM without memory.
    pub fn new() -> Self {
        Self(own(open().ioctl(KVM_CREATE_VM, 0).expect("KVM_CREATE_VM")))
    }

    /// Creates a VM whose local APICs are the kernel's.
    pub fn with_lapics() -> Self {
        let vm = Self::new();
        vm.enable_cap(KVM_CAP_SPLIT_IRQCHIP, [24, 0, 0, 0])
            .expect("KVM_CAP_SPLIT_IRQCHIP");
        vm
    }

    /// Creates a VM whose interrupt controllers are all the kernel's.
    pub fn with_irqchip() -> Self {
        let vm = Self::new();
        vm.ioctl(KVM_CREATE_IRQCHIP, 0).expect("KVM_CREATE_IRQCHIP");
        vm
    }

    /// `KVM_ENABLE_CAP`.
    pub fn enable_cap(&self, cap: u32, args: [u64; 4]) -> Result {
        let mut cap = kvm_enable_cap {
            cap,
            args,
            ..Default::default()
        };
        self.ioctl_with(KVM_ENABLE_CAP, &mut cap)
    }

    /// `KVM_SET_USER_MEMORY_REGION`.
    pub fn set_slot(&self, slot: u32, flags: u32, gpa: u64, size: u64, hva: u64) -> Result {
        let mut region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: gpa,
            memory_size: size,
            userspace_addr: hva,
        };
        self.ioctl_with(KVM_SET_USER_MEMORY_REGION, &mut region)
    }

    /// Gives the guest all of `memory` at `gpa`.
    pub fn map(&self, slot: u32, gpa: u64, memory: &Memory) {
        self.set_slot(slot, 0, gpa, memory.len() as u64, memory.hva())
            .expect("KVM_SET_USER_MEMORY_REGION");
    }

    /// `KVM_CREATE_VCPU`, and the mapping of its `kvm_run`.
    pub fn vcpu(&self, id: u64) -> Vcpu {
        let fd = self.ioctl(KVM_CREATE_VCPU, id).expect("KVM_CREATE_VCPU");
        Vcpu::new(own(fd))
    }

    /// `KVM_GET_DIRTY_LOG` of a slot with at most 64 pages.
    pub fn dirty_log(&self, slot: u32) -> Result<u64> {
        let mut bitmap = 0u64;
        let mut log = kvm_dirty_log {
            slot,
            ..Default::default()
        };
        log.__bindgen_anon_1.dirty_bitmap = ptr::from_mut(&mut bitmap).cast();
        self.ioctl_with(KVM_GET_DIRTY_LOG, &mut log)?;
        // SAFETY: The kernel has written through the pointer made from it.
        Ok(unsafe { ptr::read_volatile(&bitmap) })
    }

    /// `KVM_SIGNAL_MSI`.
    pub fn signal_msi(&self, address: u32, data: u32) -> Result {
        let mut msi = kvm_msi {
            address_lo: address,
            data,
            ..Default::default()
        };
        self.ioctl_with(KVM_SIGNAL_MSI, &mut msi)
    }
}

/// Memory of this process, meant for a guest; unmapped with the owner.
pub struct Memory {
    start: *mut u8,
    len: usize,
}

// SAFETY: The type owns the mapping; accesses are volatile, as the guest makes
// accesses of its own at any time.
unsafe impl Send for Memory {}
// SAFETY: As above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Maps `len` bytes of anonymous memory.
    pub fn new(len: usize) -> Self {
        Self::with_flags(
            len,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
        )
    }

    /// Maps `len` bytes by other `mmap` flags.
    pub fn with_flags(len: usize, flags: i32) -> Self {
        // SAFETY: A new mapping where the kernel likes.
        let start = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(ptr::null_mut(), len, access, flags, -1, 0)
        };
        assert_ne!(start, libc::MAP_FAILED, "mmap: errno {}", errno());
        Self {
            start: start.cast(),
            len,
        }
    }

    /// Maps `len` bytes of `file` from `offset` on.
    pub fn of_file(file: &impl AsRawFd, offset: i64, len: usize, flags: i32) -> Result<Self> {
        // SAFETY: A new mapping where the kernel likes.
        let start = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(
                ptr::null_mut(),
                len,
                access,
                flags,
                file.as_raw_fd(),
                offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(errno());
        }
        Ok(Self {
            start: start.cast(),
            len,
        })
    }

    /// Maps `len` bytes that begin at a multiple of `align`, a power of two.
    pub fn aligned(len: usize, align: usize) -> Self {
        let mut memory = Self::new(len + align);
        let skip = memory.start.align_offset(align);
        // SAFETY: Both ranges are ends of the mapping, unmapped for good: what
        // remains is `len` bytes in between.
        unsafe {
            if skip > 0 {
                libc::munmap(memory.start.cast(), skip);
            }
            memory.start = memory.start.add(skip);
            libc::munmap(memory.start.add(len).cast(), align - skip);
        }
        memory.len = len;
        memory
    }

    /// Address in this process.
    pub fn hva(&self) -> u64 {
        self.start as u64
    }

    /// First byte.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Reads a value at `offset`.
    pub fn read<T: Copy>(&self, offset: u64) -> T {
        assert!(offset as usize + size_of::<T>() <= self.len);
        // SAFETY: The range is in the mapping, which any bits may be in; all
        // callers read integers.
        unsafe { self.start.add(offset as usize).cast::<T>().read_unaligned() }
    }

    /// Writes a value at `offset`.
    pub fn write<T: Copy>(&self, offset: u64, value: T) {
        assert!(offset as usize + size_of::<T>() <= self.len);
        // SAFETY: The range is in the mapping.
        unsafe {
            let at = self.start.add(offset as usize).cast::<T>();
            at.write_unaligned(value);
        }
    }

    /// Reads a counter that the guest changes.
    pub fn poll(&self, offset: u64) -> u64 {
        assert!(offset % 8 == 0 && offset as usize + 8 <= self.len);
        // SAFETY: The range is in the mapping, and aligned.
        unsafe {
            self.start
                .add(offset as usize)
                .cast::<u64>()
                .read_volatile()
        }
    }

    /// Copies bytes to `offset`.
    pub fn copy(&self, offset: u64, bytes: &[u8]) {
        assert!(offset as usize + bytes.len() <= self.len);
        // SAFETY: The range is in the mapping; `bytes` is not.
        unsafe {
            let at = self.start.add(offset as usize);
            ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len());
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: The mapping is ours.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}

/// How `KVM_RUN` came back, with what the tests look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// `KVM_EXIT_IO`, out: port, size, count, first value.
    Out(u16, u8, u32, u32),
    /// `KVM_EXIT_IO`, in: port, size, count.
    In(u16, u8, u32),
    /// `KVM_EXIT_MMIO`, a write: address, length, value.
    MmioWrite(u64, u32, u64),
    /// `KVM_EXIT_MMIO`, a read: address, length.
    MmioRead(u64, u32),
    /// `KVM_EXIT_HLT`.
    Hlt,
    /// `KVM_EXIT_IRQ_WINDOW_OPEN`.
    IrqWindow,
    /// `KVM_EXIT_SHUTDOWN`.
    Shutdown,
    /// `KVM_EXIT_FAIL_ENTRY`: the hardware's reason.
    FailEntry(u64),
    /// `KVM_EXIT_INTERNAL_ERROR`: suberror, and the number of data words.
    InternalError(u32, u32),
    /// `KVM_EXIT_X86_RDMSR`: index, reason.
    Rdmsr(u32, u32),
    /// `KVM_EXIT_X86_WRMSR`: index, reason, data.
    Wrmsr(u32, u32, u64),
    /// `KVM_EXIT_IOAPIC_EOI`: vector.
    IoapicEoi(u8),
    /// Any other.
    Other(u32),
}

/// A vCPU and its mapped `kvm_run`.
pub struct Vcpu {
    fd: OwnedFd,
    run: *mut kvm_run,
    size: usize,
}

// SAFETY: The type owns the mapping, and a vCPU may be used from any thread. Two
// threads that share one call only ioctls, which the kernel orders.
unsafe impl Send for Vcpu {}
// SAFETY: As above.
unsafe impl Sync for Vcpu {}

impl AsRawFd for Vcpu {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Vcpu {
    /// Maps the `kvm_run` of a new vCPU.
    pub fn new(fd: OwnedFd) -> Self {
        let size = open()
            .ioctl(KVM_GET_VCPU_MMAP_SIZE, 0)
            .expect("KVM_GET_VCPU_MMAP_SIZE") as usize;
        // SAFETY: A new mapping where the kernel likes.
        let run = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(
                ptr::null_mut(),
                size,
                access,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        assert_ne!(run, libc::MAP_FAILED, "mmap of kvm_run: errno {}", errno());
        Self {
            fd,
            run: run.cast(),
            size,
        }
    }

    /// The shared page.
    #[allow(clippy::mut_from_ref)]
    pub fn shared(&self) -> &mut kvm_run {
        // SAFETY: The mapping lives as long as `self`. The kernel writes to it
        // only while this thread is in an ioctl, and no test keeps the reference.
        unsafe { &mut *self.run }
    }

    /// The mapping's byte at `offset`.
    pub fn shared_byte(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.size);
        // SAFETY: The offset is in the mapping.
        unsafe { self.run.cast::<u8>().add(offset) }
    }

    /// `KVM_RUN`, without a look at how it ended.
    pub fn run_raw(&self) -> Result {
        self.ioctl(KVM_RUN, 0)
    }

    /// `KVM_RUN`: the exit, or the errno.
    pub fn try_run(&self) -> Result<Exit> {
        assert_eq!(self.run_raw()?, 0);
        Ok(self.exit())
    }

    /// `KVM_RUN` that must not fail.
    pub fn run(&self) -> Exit {
        self.try_run().expect("KVM_RUN")
    }

    /// The exit that `kvm_run` tells of.
    pub fn exit(&self) -> Exit {
        let run = self.shared();
        let data = &run.__bindgen_anon_1;
        // SAFETY: The exit reason says which member of the union is valid, and
        // all of them are integers.
        unsafe {
            match run.exit_reason {
                KVM_EXIT_IO => self.io_exit(),
                KVM_EXIT_MMIO => {
                    let mmio = data.mmio;
                    if mmio.is_write != 0 {
                        let mut bytes = [0; 8];
                        let len = mmio.len.min(8) as usize;
                        bytes[..len].copy_from_slice(&mmio.data[..len]);
                        Exit::MmioWrite(mmio.phys_addr, mmio.len, u64::from_le_bytes(bytes))
                    } else {
                        Exit::MmioRead(mmio.phys_addr, mmio.len)
                    }
                }
                KVM_EXIT_HLT => Exit::Hlt,
                KVM_EXIT_IRQ_WINDOW_OPEN => Exit::IrqWindow,
                KVM_EXIT_SHUTDOWN => Exit::Shutdown,
                KVM_EXIT_FAIL_ENTRY => {
                    Exit::FailEntry(data.fail_entry.hardware_entry_failure_reason)
                }
                KVM_EXIT_INTERNAL_ERROR => {
                    Exit::InternalError(data.internal.suberror, data.internal.ndata)
                }
                KVM_EXIT_X86_RDMSR => Exit::Rdmsr(data.msr.index, data.msr.reason),
                KVM_EXIT_X86_WRMSR => Exit::Wrmsr(data.msr.index, data.msr.reason, data.msr.data),
                KVM_EXIT_IOAPIC_EOI => Exit::IoapicEoi(data.eoi.vector),
                other => Exit::Other(other),
            }
        }
    }

    fn io_exit(&self) -> Exit {
        // SAFETY: The caller has seen that the exit is an I/O exit.
        let io = unsafe { self.shared().__bindgen_anon_1.io };
        if u32::from(io.direction) == KVM_EXIT_IO_IN {
            return Exit::In(io.port, io.size, io.count);
        }
        let mut value = [0; 4];
        for (slot, byte) in value.iter_mut().zip(self.io_bytes()) {
            *slot = byte;
        }
        Exit::Out(
            io.port,
            io.size,
            io.count,
            u32::from_le_bytes(value) & mask(io.size),
        )
    }

    /// The data of an I/O exit.
    pub fn io_bytes(&self) -> Vec<u8> {
        // SAFETY: As in `io_exit`.
        let io = unsafe { self.shared().__bindgen_anon_1.io };
        let len = usize::from(io.size) * io.count as usize;
        (0..len)
            // SAFETY: `shared_byte` checks the offset.
            .map(|i| unsafe { *self.shared_byte(io.data_offset as usize + i) })
            .collect()
    }

    /// Answers an IN.
    pub fn set_io_bytes(&self, bytes: &[u8]) {
        // SAFETY: As in `io_exit`.
        let io = unsafe { self.shared().__bindgen_anon_1.io };
        for (i, byte) in bytes.iter().enumerate() {
            // SAFETY: `shared_byte` checks the offset.
            unsafe { *self.shared_byte(io.data_offset as usize + i) = *byte };
        }
    }

    /// Answers an MMIO read.
    pub fn set_mmio(&self, value: u64) {
        // SAFETY: The member is all integers.
        let mmio = unsafe { &mut self.shared().__bindgen_anon_1.mmio };
        mmio.data = value.to_le_bytes();
    }

    /// The words of an internal error.
    pub fn internal_data(&self) -> Vec<u64> {
        // SAFETY: The member is all integers.
        let internal = unsafe { self.shared().__bindgen_anon_1.internal };
        internal.data[..internal.ndata.min(16) as usize].to_vec()
    }

    /// `KVM_GET_REGS`.
    pub fn regs(&self) -> kvm_regs {
        self.get(KVM_GET_REGS)
    }

    /// `KVM_SET_REGS`.
    pub fn set_regs(&self, regs: &kvm_regs) {
        self.set(KVM_SET_REGS, *regs).expect("KVM_SET_REGS");
    }

    /// `KVM_GET_SREGS`.
    pub fn sregs(&self) -> kvm_sregs {
        self.get(KVM_GET_SREGS)
    }

    /// `KVM_SET_SREGS`.
    pub fn set_sregs(&self, sregs: &kvm_sregs) {
        self.set(KVM_SET_SREGS, *sregs).expect("KVM_SET_SREGS");
    }

    /// An ioctl that fills in a structure.
    pub fn get<T: Default>(&self, request: u64) -> T {
        let mut value = T::default();
        if let Err(errno) = self.ioctl_with(request, &mut value) {
            panic!("ioctl {request:#x}: errno {errno}");
        }
        value
    }

    /// An ioctl that takes a structure.
    pub fn set<T>(&self, request: u64, mut value: T) -> Result {
        self.ioctl_with(request, &mut value)
    }

    /// `KVM_GET_MSRS` of one MSR: its value, unless KVM refused.
    pub fn msr(&self, index: u32) -> Option<u64> {
        let mut msrs = one_msr(index, 0);
        match self.ioctl_with(KVM_GET_MSRS, &mut msrs) {
            Ok(1) => Some(msrs.entries[0].data),
            Ok(0) => None,
            other => panic!("KVM_GET_MSRS: {other:?}"),
        }
    }

    /// `KVM_SET_MSRS` of one MSR: whether KVM took it.
    pub fn set_msr(&self, index: u32, data: u64) -> bool {
        match self.ioctl_with(KVM_SET_MSRS, &mut one_msr(index, data)) {
            Ok(count) => count == 1,
            other => panic!("KVM_SET_MSRS: {other:?}"),
        }
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        // SAFETY: The mapping is ours.
        unsafe { libc::munmap(self.run.cast(), self.size) };
    }
}

/// One MSR for `KVM_GET_MSRS` and `KVM_SET_MSRS`.
pub fn one_msr(index: u32, data: u64) -> Flex<kvm_msrs, kvm_msr_entry, 1> {
    Flex {
        header: kvm_msrs {
            nmsrs: 1,
            ..Default::default()
        },
        entries: [kvm_msr_entry {
            index,
            data,
            ..Default::default()
        }],
    }
}

/// All CPUID entries that KVM supports.
pub type Cpuid = Flex<kvm_cpuid2, kvm_cpuid_entry2, 256>;

/// Room for 256 CPUID entries, `nent` of which are said to be there.
pub fn cpuid_room(nent: u32) -> Cpuid {
    Flex {
        header: kvm_cpuid2 {
            nent,
            ..Default::default()
        },
        entries: [kvm_cpuid_entry2::default(); 256],
    }
}

/// `KVM_GET_SUPPORTED_CPUID`.
pub fn supported_cpuid() -> Cpuid {
    let mut cpuid = cpuid_room(256);
    open()
        .ioctl_with(KVM_GET_SUPPORTED_CPUID, &mut cpuid)
        .expect("KVM_GET_SUPPORTED_CPUID");
    cpuid
}

impl Cpuid {
    /// The entries that are there.
    pub fn used(&mut self) -> &mut [kvm_cpuid_entry2] {
        let count = self.header.nent as usize;
        &mut self.entries[..count]
    }

    /// One entry.
    pub fn find(&mut self, function: u32, index: u32) -> Option<&mut kvm_cpuid_entry2> {
        self.used().iter_mut().find(|entry| {
            entry.function == function
                && (entry.index == index || entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX == 0)
        })
    }
}

/// The low `size` bytes of a 32-bit number.
fn mask(size: u8) -> u32 {
    u32::MAX >> (32 - 8 * u32::from(size.clamp(1, 4)))
}
