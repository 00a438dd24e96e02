//! Taking turns: how the running task goes on, and how another comes to run.
//!
//! The running task's registers stay in the processor until another takes its place, so a guest of one
//! thread pays for none of this. What is put aside is always the state of the program itself, as it would go
//! on at CPL 3; how system calls arrive on this host does not matter to it.

use std::collections::BTreeMap;

use kvm_bindings::kvm_regs;
use rustix::time::Timespec;

use super::extended::Stored;
use super::frame::Frame;
use super::kick;
use super::pace::Pace;
use super::{KvmError, Machine};
use crate::fault::{Fault, Outcome};
use crate::linux::{
    Base, Exception, ExtendedState, FIRST_TASK, Reply, Request, Restart, Spawn, StateError, Tid,
};

const INTERRUPTED: u64 = -(libc::EINTR as i64) as u64;

/// Where the processor has left the running task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// In a system call.
    Call,
    /// At an instruction that faulted.
    Fault(Frame),
    /// Between two instructions: the processor has the program's registers.
    Program,
    /// In the monitor's code, on the way into it or out of it: it can only go on.
    Monitor,
}

/// A task that does not run.
#[derive(Debug)]
struct Aside {
    registers: kvm_regs,
    bases: [u64; 2],
    extended: Stored,
    /// How long it ran before.
    ran: Timespec,
}

/// Who runs, and who does not.
#[derive(Debug)]
pub(super) struct Turns {
    /// The task whose registers the processor has, unless it has ended.
    inside: Option<Tid>,
    pub(super) left: Left,
    /// What its call returns.
    result: Option<u64>,
    /// Its call was interrupted: the handler that now runs may have it made again.
    restart: Option<Restart>,
    aside: BTreeMap<Tid, Aside>,
    pace: Pace,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            inside: Some(FIRST_TASK),
            left: Left::Program,
            result: None,
            restart: None,
            aside: BTreeMap::new(),
            pace: Pace::default(),
        }
    }
}

impl From<StateError> for KvmError {
    fn from(error: StateError) -> Self {
        Self::Call {
            what: "moving a processor's extended state",
            error: match error {
                StateError::Invalid => std::io::ErrorKind::InvalidData.into(),
                StateError::Platform(error) => error,
            },
        }
    }
}

impl Machine {
    /// Does what follows a call.
    pub(super) fn answer(&mut self, reply: Reply) -> Result<Option<Outcome>, KvmError> {
        match reply {
            Reply::Return(result) => self.turns.result = Some(result),
            Reply::Interrupted { restart } => {
                self.turns.result = Some(INTERRUPTED);
                self.turns.restart = restart;
            }
            Reply::Waits => {}
            Reply::Ended => self.turns.inside = None,
            Reply::Request(request) => return self.do_request(request),
            Reply::End(outcome) => return Ok(Some(outcome)),
            Reply::Fault(cause) => {
                let registers = self.program_registers();
                return Ok(Some(Outcome::Fault(Fault {
                    cause,
                    instruction_pointer: registers.rip,
                    stack_pointer: registers.rsp,
                })));
            }
        }
        Ok(None)
    }

    fn do_request(&mut self, request: Request) -> Result<Option<Outcome>, KvmError> {
        let mut system = self.vcpu.system_registers()?;
        match request {
            Request::Spawn(spawn) => {
                self.spawn(spawn)?;
                self.turns.result = Some(spawn.tid.into());
            }
            Request::SetBase(base, address) => {
                match base {
                    Base::Fs => system.fs.base = address,
                    Base::Gs => system.gs.base = address,
                }
                self.vcpu.set_system_registers(&system);
                self.turns.result = Some(0);
            }
            Request::TellBase(base, at) => {
                let address = match base {
                    Base::Fs => system.fs.base,
                    Base::Gs => system.gs.base,
                };
                self.turns.result = Some(self.linux.write_result(at, address));
            }
            Request::SignalReturn => {
                let mut registers = self.program_registers();
                if let Err(outcome) = self
                    .linux
                    .return_from_signal(&mut registers, &mut self.vcpu)
                {
                    return Ok(Some(at(outcome, &registers)));
                }
                self.set_program_registers(&registers)?;
            }
        }
        Ok(None)
    }

    /// Puts a copy of the running task aside.
    fn spawn(&mut self, spawn: Spawn) -> Result<(), KvmError> {
        let mut copy = self.copy()?;
        copy.registers.rax = 0;
        copy.ran = Timespec::default();
        if let Some(stack) = spawn.stack {
            copy.registers.rsp = stack;
        }
        if let Some(thread_pointer) = spawn.thread_pointer {
            copy.bases[0] = thread_pointer;
        }
        self.turns.aside.insert(spawn.tid, copy);
        Ok(())
    }

    /// The running task as it would go on.
    fn copy(&mut self) -> Result<Aside, KvmError> {
        let registers = self.program_registers();
        let system = self.vcpu.system_registers()?;
        let state = self.vcpu.read()?;
        Ok(Aside {
            registers,
            bases: [system.fs.base, system.gs.base],
            extended: Stored::of(&state, self.vcpu.parts()),
            ran: self.turns.pace.ran(kick::now()),
        })
    }

    /// The registers of the program that runs, as it would go on.
    fn program_registers(&mut self) -> kvm_regs {
        let mut registers = match self.turns.left {
            Left::Call => self.vcpu.registers_at_call(),
            Left::Fault(frame) => kvm_regs {
                rip: frame.rip,
                rsp: frame.rsp,
                rflags: frame.rflags,
                ..*self.vcpu.registers()
            },
            Left::Program | Left::Monitor => *self.vcpu.registers(),
        };
        if let Some(result) = self.turns.result {
            registers.rax = result;
        }
        registers
    }

    /// Has the program that runs go on with `registers`.
    fn set_program_registers(&mut self, registers: &kvm_regs) -> Result<(), KvmError> {
        let system = self.vcpu.system_registers()?;
        self.vcpu.go_on_with(registers, &system);
        self.turns.left = Left::Program;
        self.turns.result = None;
        Ok(())
    }

    /// Makes `tid` the task whose registers the processor has.
    fn bring(&mut self, tid: Tid) -> Result<(), KvmError> {
        if self.turns.inside == Some(tid) {
            return Ok(());
        }
        if let Some(inside) = self.turns.inside {
            let copy = self.copy()?;
            self.turns.aside.insert(inside, copy);
        }
        self.turns.inside = Some(tid);
        self.turns.result = None;
        self.turns.pace.begin(tid, kick::now());
        if let Some(next) = self.turns.aside.remove(&tid) {
            let mut system = self.vcpu.system_registers()?;
            [system.fs.base, system.gs.base] = next.bases;
            self.vcpu.go_on_with(&next.registers, &system);
            self.vcpu.write(next.extended.bytes())?;
            self.turns.left = Left::Program;
        }
        Ok(())
    }

    /// Brings the processor to where it runs the guest on: the same task, or the next, after its
    /// signals. Waits if all wait.
    pub(super) fn go_on(&mut self) -> Result<Option<Outcome>, KvmError> {
        if self.turns.left != Left::Monitor {
            self.turns.pace.got_out();
        }
        while self.turns.left != Left::Monitor {
            let Some((tid, reply)) = self.linux.next_task() else {
                self.wait()?;
                continue;
            };
            self.bring(tid)?;
            if let Some(reply) = reply {
                let ended = self.answer(reply)?;
                if ended.is_some() {
                    return Ok(ended);
                }
            }
            if self.linux.has_signals() || self.turns.restart.is_some() {
                let mut registers = self.program_registers();
                let restart = self.turns.restart.take();
                if let Err(outcome) = self.linux.deliver(&mut registers, restart, &mut self.vcpu) {
                    return Ok(Some(at(outcome, &registers)));
                }
                self.set_program_registers(&registers)?;
            }
            if self.linux.goes_on() {
                break;
            }
        }
        self.resume()?;
        Ok(None)
    }

    fn resume(&mut self) -> Result<(), KvmError> {
        let result = self.turns.result.take();
        match self.turns.left {
            Left::Call => self.vcpu.return_from_call(result.unwrap_or_default()),
            Left::Fault(frame) => {
                let system = self.vcpu.system_registers()?;
                self.vcpu.return_from_fault(&frame, &system);
            }
            Left::Program | Left::Monitor => {
                if let Some(result) = result {
                    self.vcpu.registers().rax = result;
                }
            }
        }
        self.set_alarm()
    }

    /// Sees that the processor leaves in time for others, and for what is to be done at a time.
    fn set_alarm(&mut self) -> Result<(), KvmError> {
        if let Some(deadline) = self.linux.deadline() {
            self.kicks.arm(deadline)?;
        }
        let waits = self.linux.descriptor_waits();
        // One whose turn is over is on its way out of the monitor's code, and must get there.
        if self.linux.goes_on() && (self.linux.has_ready() || waits.is_some()) {
            let ready = self.linux.ready();
            let next = self.turns.pace.next(waits, ready, kick::now());
            self.kicks.arm(next)?;
        }
        Ok(())
    }

    /// The processor was stopped by a signal of the host.
    pub(super) fn interrupted(&mut self) -> Result<(), KvmError> {
        self.exits.interrupted += 1;
        let ready = self.linux.ready().count();
        self.take_kicks()?;
        self.look_at_descriptors()?;
        for tid in self.linux.ready().skip(ready) {
            let aside = self.turns.aside.get(&tid);
            let ran = aside.map_or_else(Timespec::default, |aside| aside.ran);
            self.turns.pace.wake(tid, ran);
        }
        if self.turns.pace.is_over(kick::now()) {
            self.linux.end_turn();
        }
        let at_program = self.vcpu.is_at_program()?;
        self.turns.left = if at_program {
            Left::Program
        } else {
            Left::Monitor
        };
        if !at_program && (!self.linux.goes_on() || self.linux.has_signals()) {
            // It may get out without another exit.
            let again = self.turns.pace.stopped_inside(kick::now());
            self.kicks.arm(again)?;
        }
        Ok(())
    }

    fn take_kicks(&mut self) -> Result<(), KvmError> {
        let came = self.kicks.take()?;
        for signal in came.signals {
            self.linux.pass_on(signal);
        }
        if came.tick {
            self.linux.pass(kick::now());
        }
        Ok(())
    }

    fn look_at_descriptors(&mut self) -> Result<(), KvmError> {
        let waits: Vec<_> = self.linux.descriptors().collect();
        if waits.is_empty() {
            return Ok(());
        }
        self.wake_all(&self.kicks.look(&waits)?);
        self.turns.pace.looked(kick::now());
        Ok(())
    }

    /// Waits until something has come that a task waits for: the one place where this process does.
    fn wait(&mut self) -> Result<(), KvmError> {
        let waits: Vec<_> = self.linux.descriptors().collect();
        self.wake_all(&self.kicks.wait(&waits, self.linux.deadline())?);
        self.take_kicks()?;
        let now = kick::now();
        self.linux.pass(now);
        if let Some(inside) = self.turns.inside {
            self.turns.pace.begin(inside, now);
        }
        Ok(())
    }

    fn wake_all(&mut self, tids: &[Tid]) {
        for &tid in tids {
            self.linux.wake(tid);
        }
    }

    /// Has the running task's handler deal with an exception. False if it has none.
    pub(super) fn handle(&mut self, exception: &Exception) -> Result<bool, KvmError> {
        let mut registers = self.program_registers();
        let handled = self
            .linux
            .deliver_exception(&mut registers, exception, &mut self.vcpu);
        if matches!(handled, Ok(true)) {
            self.set_program_registers(&registers)?;
        }
        Ok(matches!(handled, Ok(true)))
    }
}

/// A fault that the kernel's own work met is where the program was.
fn at(outcome: Outcome, registers: &kvm_regs) -> Outcome {
    match outcome {
        Outcome::Fault(fault) => Outcome::Fault(Fault {
            cause: fault.cause,
            instruction_pointer: registers.rip,
            stack_pointer: registers.rsp,
        }),
        other => other,
    }
}
