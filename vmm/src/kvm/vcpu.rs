//! The virtual processor: its state before the first instruction, and its exits.

use std::cell::OnceCell;

use kvm_bindings::{CpuId, kvm_regs, kvm_segment, kvm_sregs, kvm_xcr, kvm_xcrs};
use kvm_ioctls::{SyncReg, VcpuExit, VcpuFd};
use pool_core::address::USER_ADDRESS_END;

use super::KvmError;
use super::boot::{self, Monitor};
use super::counter;
use super::frame::{Frame, user_flags};
use super::msr::{self, Arrival};
use super::stats::FaultCounter;
use crate::extended::{self, Parts};

const CR0: u64 = 0x8005_0033; // PE MP ET NE WP AM PG
const CR4_BASE: u64 = 1 << 5 | 1 << 9 | 1 << 10; // PAE OSFXSR OSXMMEXCPT
const CR4_UMIP: u64 = 1 << 11;
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_OSXSAVE: u64 = 1 << 18;
const CR4_SMEP: u64 = 1 << 20;
const EFER: u64 = 1 | 1 << 8 | 1 << 10 | 1 << 11; // SCE LME LMA NXE
/// x87, SSE, AVX and AVX-512 state; AMX and PKRU need permissions that nothing here grants.
const XCR0_OFFERED: u64 = 0xe7;

/// The trap flag: single steps.
const TRAP_FLAG: u64 = 1 << 8;

/// Why a vCPU stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// An OUT of one byte to this port.
    Port(u16),
    /// Any other access to a port; there are no devices.
    Device,
    /// A store to read-only guest physical memory.
    ReadOnlyStore {
        /// Guest physical address.
        physical: u64,
    },
    /// A signal for this thread.
    Interrupted,
    /// The host has no memory behind a guest page.
    Unreachable,
    /// KVM gave up; its reason.
    Failed(&'static str),
}

/// Features of the processor that decide how the guest starts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Features {
    pub(super) fsgsbase: bool,
    /// SGDT and its like are refused at CPL 3.
    umip: bool,
    /// CPL 0 can be kept from executing pages that CPL 3 may use.
    smep: bool,
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
        let extended = leaf(7, 0).copied().unwrap_or_default();
        Self {
            fsgsbase: extended.ebx & 1 != 0,
            umip: extended.ecx & 1 << 2 != 0,
            smep: extended.ebx & 1 << 7 != 0,
            xcr0: if xsave { supported & XCR0_OFFERED } else { 0 },
        }
    }

    /// Bits of CR4 by which CPL 0 cannot execute a guest's pages.
    pub(super) fn execution_prevention(self) -> u64 {
        if self.smep { CR4_SMEP } else { 0 }
    }
}

/// A processor that knows what it can do, and nothing of a guest.
#[derive(Debug)]
pub(super) struct Blank {
    fd: VcpuFd,
    /// The registers that it comes with.
    system: kvm_sregs,
}

impl Blank {
    /// Tells `fd` what it can do, by `cpuid`, which is the machine's, and that it is processor `number`.
    pub(super) fn new(fd: VcpuFd, cpuid: &mut CpuId, number: u16) -> Result<Self, KvmError> {
        let call = KvmError::call;
        tell_number(cpuid, number);
        fd.set_cpuid2(cpuid)
            .map_err(|error| call("setting CPUID", error))?;
        let features = Features::of(cpuid);
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
        counter::share(&fd);
        let system = fd
            .get_sregs()
            .map_err(|error| call("reading system registers", error))?;
        Ok(Self { fd, system })
    }
}

/// The processor of a guest.
#[derive(Debug)]
pub(super) struct Vcpu {
    fd: VcpuFd,
    monitor: Monitor,
    arrival: Arrival,
    /// Features of its extended state (XCR0), and how they are laid out, which only those need who have it
    /// read: each leaf of CPUID costs some 5 us on a host that is a guest itself.
    xcr0: u64,
    parts: OnceCell<Parts>,
    /// System registers that take effect on the next run; KVM does not tell them until then.
    changed: Option<kvm_sregs>,
    counter_is_hosts: bool,
}

impl Vcpu {
    /// KVM's counter of this processor's page faults.
    pub(super) fn fault_counter(&self) -> Option<FaultCounter> {
        FaultCounter::of(&self.fd)
    }

    /// Prepares a processor of these `features`: long mode at CPL 3, `root` as page tables. How calls enter the
    /// monitor is to be found out before anything of the guest runs.
    pub(super) fn new(
        blank: Blank,
        features: Features,
        monitor: Monitor,
        root: u64,
    ) -> Result<Self, KvmError> {
        let Blank { fd, mut system } = blank;
        set_system_registers(&mut system, features, monitor, root);
        msr::set_registers(&fd, monitor)?;
        let mut vcpu = Self {
            fd,
            monitor,
            arrival: Arrival::Unprivileged,
            xcr0: features.xcr0,
            parts: OnceCell::new(),
            changed: None,
            counter_is_hosts: false,
        };
        vcpu.fd.set_sync_valid_reg(SyncReg::Register);
        vcpu.set_system_registers(&system);
        Ok(vcpu)
    }

    /// Says how its calls arrive and whether its counter is the host's, once that is known ([`super::entry`]).
    pub(super) fn set_found(&mut self, arrival: Arrival, counter_is_hosts: bool) {
        self.arrival = arrival;
        self.counter_is_hosts = counter_is_hosts;
    }

    /// Sets the processor to the guest's first instruction, at `entry` with stack pointer `stack`.
    pub(super) fn start_at(&mut self, entry: u64, stack: u64) {
        *self.registers() = kvm_regs {
            rip: entry,
            rsp: stack,
            rflags: user_flags(0),
            ..Default::default()
        };
    }

    /// The guest's counter is the host's.
    pub(super) fn counter_is_hosts(&self) -> bool {
        self.counter_is_hosts
    }

    pub(super) fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// The parts of the extended state.
    pub(super) fn parts(&self) -> &Parts {
        self.parts.get_or_init(|| {
            Parts::of(match self.arrival {
                Arrival::Privileged => self.xcr0,
                Arrival::Unprivileged => extended::of_this_process() & XCR0_OFFERED,
            })
        })
    }

    /// The general registers; what is changed takes effect on the next run.
    pub(super) fn registers(&mut self) -> &mut kvm_regs {
        self.fd.set_sync_dirty_reg(SyncReg::Register);
        &mut self.fd.sync_regs_mut().regs
    }

    /// True when the processor has left by the OUT that system calls enter at, rather than by one
    /// of the guest's own.
    pub(super) fn is_at_call(&mut self) -> bool {
        boot::has_left(self.arrival.stub(self.monitor), self.registers().rip)
    }

    /// Goes back to the guest after a system call with `result` in RAX. The address to go back to,
    /// in RCX, must be a user address: SYSRETQ to any that is not canonical would fault at CPL 0.
    pub(super) fn return_from_call(&mut self, result: u64) -> Result<(), KvmError> {
        let (arrival, stub) = (self.arrival, self.arrival.stub(self.monitor));
        let registers = self.registers();
        registers.rax = result;
        let flags = user_flags(registers.r11);
        let steps = flags & TRAP_FLAG != 0;
        if arrival == Arrival::Privileged && !steps {
            // KVM may have stopped at the OUT or behind it; either way the next instruction is SYSRETQ.
            registers.rip = boot::behind_out(stub);
            registers.r11 = flags;
            return Ok(());
        }
        registers.rip = registers.rcx;
        registers.rflags = flags;
        if arrival == Arrival::Privileged {
            // SYSRETQ would trap at once, before the next instruction rather than behind it. (Linux does not use
            // it then either: arch/x86/entry/common.c, `do_syscall_64`.)
            let system = self.system_registers()?;
            self.enter_user(&system);
        }
        Ok(())
    }

    /// Goes on with a program's `registers`, whatever the processor did last. `system` is its state
    /// now, with the bases of FS and GS to be.
    pub(super) fn go_on_with(&mut self, registers: &kvm_regs, system: &kvm_sregs) {
        self.enter_user(system);
        *self.registers() = kvm_regs {
            rflags: user_flags(registers.rflags),
            ..*registers
        };
    }

    /// The registers of the program that has made a call.
    pub(super) fn registers_at_call(&mut self) -> kvm_regs {
        let registers = *self.registers();
        kvm_regs {
            rip: registers.rcx,
            rflags: user_flags(registers.r11),
            ..registers
        }
    }

    /// True when an interrupted processor is between two instructions of the program: not in code of
    /// the monitor, nor on the way there with an exception.
    pub(super) fn is_at_program(&mut self) -> Result<bool, KvmError> {
        let system = self.system_registers()?;
        let rip = self.registers().rip;
        if system.cs.dpl != 3 || self.monitor.holds(rip) || rip >= USER_ADDRESS_END {
            return Ok(false);
        }
        let events = self
            .fd
            .get_vcpu_events()
            .map_err(|error| KvmError::call("reading pending events", error))?;
        let exception = events.exception.injected | events.exception.pending;
        Ok(exception | events.interrupt.injected | events.nmi.injected == 0)
    }

    /// Goes on with the instruction that faulted. `system` is the processor's state now.
    pub(super) fn return_from_fault(&mut self, frame: &Frame, system: &kvm_sregs) {
        self.enter_user(system);
        let registers = self.registers();
        registers.rip = frame.rip;
        registers.rsp = frame.rsp;
        registers.rflags = frame.rflags;
    }

    /// Sets `system` with CPL 3 segments.
    pub(super) fn enter_user(&mut self, system: &kvm_sregs) {
        let mut system = *system;
        set_user_segments(&mut system);
        self.set_system_registers(&system);
    }

    /// Has `system` take effect on the next run.
    pub(super) fn set_system_registers(&mut self, system: &kvm_sregs) {
        self.changed = Some(*system);
        self.fd.sync_regs_mut().sregs = *system;
        self.fd.set_sync_dirty_reg(SyncReg::SystemRegister);
    }

    pub(super) fn system_registers(&self) -> Result<kvm_sregs, KvmError> {
        if let Some(changed) = self.changed {
            return Ok(changed);
        }
        self.fd
            .get_sregs()
            .map_err(|error| KvmError::call("reading system registers", error))
    }

    /// Runs until the guest leaves, and says what the system registers are then, which is cheaper than a question.
    pub(super) fn run_telling(&mut self) -> Result<(Exit, kvm_sregs), KvmError> {
        self.fd.set_sync_valid_reg(SyncReg::SystemRegister);
        let exit = self.run();
        self.fd.clear_sync_valid_reg(SyncReg::SystemRegister);
        Ok((exit?, self.fd.sync_regs().sregs))
    }

    /// Has KVM end the access to a port by which the program has left. What of it is left it would do on the way
    /// back, wherever that is to. True if that moved RIP, which is behind the access already if it did not; none if
    /// there is more to it. The registers are as before.
    pub(super) fn finish_access(&mut self) -> Result<Option<bool>, KvmError> {
        let before = self.fd.sync_regs().regs;
        self.fd.set_kvm_immediate_exit(1);
        let exit = self.run();
        self.fd.set_kvm_immediate_exit(0);
        let moved = self.fd.sync_regs().regs.rip != before.rip;
        *self.registers() = before;
        Ok((exit? == Exit::Interrupted).then_some(moved))
    }

    /// Runs until the guest leaves.
    pub(super) fn run(&mut self) -> Result<Exit, KvmError> {
        self.changed = None;
        match self.fd.run() {
            Ok(VcpuExit::IoOut(port, [_])) => Ok(Exit::Port(port)),
            Ok(VcpuExit::IoOut(..) | VcpuExit::IoIn(..)) => Ok(Exit::Device),
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
            Ok(_) => Ok(Exit::Failed("unexpected KVM exit")),
            Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => {
                Ok(Exit::Interrupted)
            }
            Err(error) if error.errno() == libc::EFAULT => Ok(Exit::Unreachable),
            Err(error) => Err(KvmError::call("running the virtual processor", error)),
        }
    }
}

/// Has `cpuid` name `processor` (its APIC id: Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E.4). KVM says
/// there which of the host's it was asked on.
fn tell_number(cpuid: &mut CpuId, processor: u16) {
    let processor = u32::from(processor);
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            1 => entry.ebx = entry.ebx & 0xff_ffff | processor << 24,
            0xb | 0x1f => entry.edx = processor,
            0x8000_001e => entry.eax = processor,
            _ => {}
        }
    }
}

fn set_system_registers(sregs: &mut kvm_sregs, features: Features, monitor: Monitor, root: u64) {
    sregs.cr0 = CR0;
    sregs.cr3 = root;
    sregs.cr4 = CR4_BASE;
    if features.fsgsbase {
        sregs.cr4 |= CR4_FSGSBASE;
    }
    if features.umip {
        sregs.cr4 |= CR4_UMIP;
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
        // For the probe, and for hosts on which it shows that CPL 3 must have this port.
        limit: boot::TSS_LIMIT_CALL_PORT,
        selector: boot::TASK,
        type_: 11,
        present: 1,
        ..Default::default()
    };
    // A processor comes with a table of local descriptors at address 0. A guest that could map
    // memory there would write gates to CPL 0 into it.
    sregs.ldt = kvm_segment {
        type_: 2,
        unusable: 1,
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

#[cfg(test)]
mod tests {
    use kvm_bindings::kvm_cpuid_entry2;

    use super::*;

    #[test]
    fn each_processor_has_a_number_of_its_own() {
        let leaf = |function, index| kvm_cpuid_entry2 {
            function,
            index,
            eax: 0x0102_0304,
            ebx: 0x0506_0708,
            ecx: 0x090a_0b0c,
            edx: 0x0d0e_0f10,
            ..Default::default()
        };
        let leaves = [
            (1, 0),
            (7, 0),
            (0xb, 0),
            (0xb, 1),
            (0x1f, 0),
            (0x8000_001e, 0),
        ];
        let before = leaves.map(|(function, index)| leaf(function, index));
        let mut cpuid = CpuId::from_entries(&before).unwrap();
        for processor in [0, 63, 2] {
            tell_number(&mut cpuid, processor);
            let number = u32::from(processor);
            let mut right = before;
            right[0].ebx = number << 24 | 0x06_0708;
            for leaf in &mut right[2..5] {
                leaf.edx = number;
            }
            right[5].eax = number;
            assert_eq!(cpuid.as_slice(), right);
        }
    }
}
