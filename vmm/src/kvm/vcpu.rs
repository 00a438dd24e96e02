//! The virtual processor: its state before the first instruction, and its exits.

use kvm_bindings::{
    CpuId, Msrs, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs, kvm_xcr, kvm_xcrs,
};
use kvm_ioctls::{SyncReg, VcpuExit, VcpuFd};

use super::KvmError;
use super::boot::{self, Monitor};
use super::stats::FaultCounter;

const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_SYSCALL_MASK: u32 = 0xc000_0084;
/// RFLAGS cleared on SYSCALL: trap, interrupt, direction, I/O privilege, nested task, alignment.
const SYSCALL_MASK: u64 = 0x4_7700;

const CR0: u64 = 0x8005_0033; // PE MP ET NE WP AM PG
const CR4_BASE: u64 = 1 << 5 | 1 << 9 | 1 << 10; // PAE OSFXSR OSXMMEXCPT
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_OSXSAVE: u64 = 1 << 18;
const EFER: u64 = 1 | 1 << 8 | 1 << 10 | 1 << 11; // SCE LME LMA NXE
/// x87, SSE, AVX and AVX-512 state; AMX and PKRU need permissions that nothing here grants.
const XCR0_OFFERED: u64 = 0xe7;

/// Why a vCPU stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// An OUT to this port.
    Port(u16),
    /// A store to read-only guest physical memory.
    ReadOnlyStore {
        /// Guest physical address.
        physical: u64,
    },
    /// A signal for this thread.
    Interrupted,
    /// KVM gave up; its reason.
    Failed(&'static str),
}

/// Features of the processor that decide how the guest starts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Features {
    pub(super) fsgsbase: bool,
    xcr0: u64,
}

impl Features {
    pub(super) fn of(cpuid: &CpuId) -> Self {
        let leaf = |function: u32, index: u32| {
            let mut entries = cpuid.as_slice().iter();
            entries.find(|e| e.function == function && e.index == index)
        };
        let xsave = leaf(1, 0).is_some_and(|e| e.ecx & 1 << 26 != 0);
        let supported = leaf(0xd, 0).map_or(0, |e| u64::from(e.edx) << 32 | u64::from(e.eax));
        Self {
            fsgsbase: leaf(7, 0).is_some_and(|e| e.ebx & 1 != 0),
            xcr0: if xsave { supported & XCR0_OFFERED } else { 0 },
        }
    }
}

/// The processor of a guest.
#[derive(Debug)]
pub(super) struct Vcpu {
    fd: VcpuFd,
    /// SYSCALL leaves the guest at CPL 0, so segments must be set on the way back.
    restore_segments: Option<bool>,
}

impl Vcpu {
    /// KVM's counter of this processor's page faults.
    pub(super) fn fault_counter(&self) -> Result<Option<FaultCounter>, KvmError> {
        FaultCounter::of(&self.fd)
    }

    /// Prepares the processor: long mode at CPL 3, `root` as page tables, at `entry` with stack
    /// pointer `stack`.
    pub(super) fn new(
        fd: VcpuFd,
        cpuid: &CpuId,
        monitor: Monitor,
        root: u64,
        entry: u64,
        stack: u64,
    ) -> Result<Self, KvmError> {
        let features = Features::of(cpuid);
        let call = KvmError::call;
        fd.set_cpuid2(cpuid)
            .map_err(|error| call("setting CPUID", error))?;
        let mut sregs = fd
            .get_sregs()
            .map_err(|error| call("reading system registers", error))?;
        set_system_registers(&mut sregs, features, monitor, root);
        fd.set_sregs(&sregs)
            .map_err(|error| call("setting system registers", error))?;
        if features.xcr0 != 0 {
            let mut xcrs = kvm_xcrs {
                nr_xcrs: 1,
                ..Default::default()
            };
            xcrs.xcrs[0] = kvm_xcr {
                xcr: 0,
                value: features.xcr0,
                ..Default::default()
            };
            fd.set_xcrs(&xcrs)
                .map_err(|error| call("setting XCR0", error))?;
        }
        set_syscall_entry(&fd, monitor)?;
        let mut vcpu = Self {
            fd,
            restore_segments: None,
        };
        vcpu.fd.set_sync_valid_reg(SyncReg::Register);
        *vcpu.registers() = kvm_regs {
            rip: entry,
            rsp: stack,
            rflags: 2,
            ..Default::default()
        };
        Ok(vcpu)
    }

    /// The general registers; what is changed takes effect on the next run.
    pub(super) fn registers(&mut self) -> &mut kvm_regs {
        self.fd.set_sync_dirty_reg(SyncReg::Register);
        &mut self.fd.sync_regs_mut().regs
    }

    /// Goes back to CPL 3 after a system call with `result` in RAX.
    pub(super) fn return_from_call(
        &mut self,
        result: u64,
        thread_pointer: Option<u64>,
    ) -> Result<(), KvmError> {
        if self.restore_segments != Some(false) || thread_pointer.is_some() {
            self.enter_user(thread_pointer)?;
        }
        let registers = self.registers();
        registers.rax = result;
        registers.rip = registers.rcx;
        registers.rflags = registers.r11 & 0x24_0dd5 | 2;
        Ok(())
    }

    /// Sets the CPL 3 segments if the processor is not there, and the thread pointer.
    pub(super) fn enter_user(&mut self, thread_pointer: Option<u64>) -> Result<(), KvmError> {
        let mut sregs = self.system_registers()?;
        let privileged = sregs.cs.dpl != 3 || sregs.ss.dpl != 3 || sregs.cs.l != 1;
        if self.restore_segments.is_none() {
            self.restore_segments = Some(privileged);
        }
        if let Some(base) = thread_pointer {
            sregs.fs.base = base;
        }
        if privileged {
            set_user_segments(&mut sregs);
        }
        if privileged || thread_pointer.is_some() {
            self.fd.sync_regs_mut().sregs = sregs;
            self.fd.set_sync_dirty_reg(SyncReg::SystemRegister);
        }
        Ok(())
    }

    pub(super) fn system_registers(&self) -> Result<kvm_sregs, KvmError> {
        self.fd
            .get_sregs()
            .map_err(|error| KvmError::call("reading system registers", error))
    }

    /// Runs until the guest leaves.
    pub(super) fn run(&mut self) -> Result<Exit, KvmError> {
        match self.fd.run() {
            Ok(VcpuExit::IoOut(port, _)) => Ok(Exit::Port(port)),
            Ok(VcpuExit::MmioWrite(physical, _)) => Ok(Exit::ReadOnlyStore { physical }),
            Ok(VcpuExit::Intr) => Ok(Exit::Interrupted),
            Ok(VcpuExit::Shutdown) => Ok(Exit::Failed(
                "triple fault (a fault could not be delivered)",
            )),
            Ok(VcpuExit::InternalError) => Ok(Exit::Failed(
                "KVM internal error (an instruction could not be emulated)",
            )),
            Ok(VcpuExit::FailEntry(..)) => Ok(Exit::Failed("the processor refused to enter")),
            Ok(VcpuExit::Hlt) => Ok(Exit::Failed("the processor halted")),
            Ok(VcpuExit::MmioRead(..)) => Ok(Exit::Failed("load from memory that does not exist")),
            Ok(VcpuExit::IoIn(..)) => Ok(Exit::Failed("IN instruction: there are no devices")),
            Ok(_) => Ok(Exit::Failed("unexpected KVM exit")),
            Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => {
                Ok(Exit::Interrupted)
            }
            Err(error) if error.errno() == libc::EFAULT => Ok(Exit::Failed(
                "KVM could not reach the host memory behind a guest page",
            )),
            Err(error) => Err(KvmError::call("running the virtual processor", error)),
        }
    }
}

fn set_syscall_entry(fd: &VcpuFd, monitor: Monitor) -> Result<(), KvmError> {
    // SYSRET's base: CPL 3 data is 8 above it, CPL 3 code 16.
    let star = u64::from(boot::USER_DATA - 8) << 48 | u64::from(boot::KERNEL_CODE) << 32;
    let entries = [
        (MSR_STAR, star),
        (MSR_LSTAR, monitor.syscall_stub()),
        (MSR_SYSCALL_MASK, SYSCALL_MASK),
    ]
    .map(|(index, data)| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    });
    let msrs = Msrs::from_entries(&entries).map_err(|_| KvmError::Capability("KVM_SET_MSRS"))?;
    match fd.set_msrs(&msrs) {
        Ok(set) if set == entries.len() => Ok(()),
        Ok(_) => Err(KvmError::Capability("the SYSCALL registers")),
        Err(error) => Err(KvmError::call("setting the SYSCALL registers", error)),
    }
}

fn set_system_registers(sregs: &mut kvm_sregs, features: Features, monitor: Monitor, root: u64) {
    sregs.cr0 = CR0;
    sregs.cr3 = root;
    sregs.cr4 = CR4_BASE;
    if features.fsgsbase {
        sregs.cr4 |= CR4_FSGSBASE;
    }
    if features.xcr0 != 0 {
        sregs.cr4 |= CR4_OSXSAVE;
    }
    sregs.efer = EFER;
    set_user_segments(sregs);
    sregs.gdt.base = monitor.gdt();
    sregs.gdt.limit = boot::GDT_LIMIT;
    sregs.idt.base = monitor.idt();
    sregs.idt.limit = boot::IDT_LIMIT;
    sregs.tr = kvm_segment {
        base: monitor.tss(),
        limit: boot::TSS_LIMIT,
        selector: boot::TASK,
        type_: 11,
        present: 1,
        ..Default::default()
    };
}

/// CPL 3 code, data and stack; FS and GS keep their bases.
fn set_user_segments(sregs: &mut kvm_sregs) {
    let data = kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: boot::USER_DATA,
        type_: 3,
        present: 1,
        dpl: 3,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    sregs.cs = kvm_segment {
        selector: boot::USER_CODE,
        type_: 11,
        db: 0,
        l: 1,
        ..data
    };
    sregs.ss = data;
    sregs.ds = data;
    sregs.es = data;
    sregs.fs = kvm_segment {
        base: sregs.fs.base,
        ..data
    };
    sregs.gs = kvm_segment {
        base: sregs.gs.base,
        ..data
    };
}
