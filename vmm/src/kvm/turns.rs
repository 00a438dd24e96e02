//! Taking turns: how the running task goes on, and how another comes to run.
//!
//! A task's registers stay in the processor until another takes its place, so a guest of one thread pays
//! for none of this. What is put aside is always the state of the program itself, as it would go
//! on at CPL 3; how system calls arrive on this host does not matter to it.

use kvm_bindings::kvm_regs;
use rustix::time::Timespec;

use super::KvmError;
use super::aside::{Aside, Left};
use super::kick;
use super::processor::{Next, Turn};
use crate::extended::Stored;
use crate::fault::{Fault, Outcome};
use crate::linux::{Base, Exception, ExtendedState, Reply, Request, Spawn, StateError, Tid};

const INTERRUPTED: u64 = -(libc::EINTR as i64) as u64;

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

impl Turn<'_> {
    /// Does what follows a call.
    pub(super) fn answer(&mut self, reply: Reply) -> Result<Option<Outcome>, KvmError> {
        match reply {
            Reply::Return(result) => self.cpu.turns.result = Some(result),
            Reply::Interrupted { restart } => {
                self.cpu.turns.result = Some(INTERRUPTED);
                self.cpu.turns.restart = restart;
            }
            Reply::Waits => {}
            Reply::Ended => {
                self.cpu.turns.inside = None;
                self.board.linux.reside(None);
            }
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
        let mut system = self.cpu.vcpu.system_registers()?;
        match request {
            Request::Spawn(spawn) => {
                self.spawn(spawn)?;
                self.cpu.turns.result = Some(spawn.tid.into());
            }
            Request::SetBase(base, address) => {
                match base {
                    Base::Fs => system.fs.base = address,
                    Base::Gs => system.gs.base = address,
                }
                self.cpu.vcpu.set_system_registers(&system);
                self.cpu.turns.result = Some(0);
            }
            Request::TellBase(base, at) => {
                let address = match base {
                    Base::Fs => system.fs.base,
                    Base::Gs => system.gs.base,
                };
                self.cpu.turns.result = Some(self.board.linux.write_result(at, address));
            }
            Request::Disk(call) => self.cpu.turns.outside = Some(call),
            Request::SignalReturn => {
                let mut registers = self.program_registers();
                if let Err(outcome) = self
                    .board
                    .linux
                    .return_from_signal(&mut registers, &mut self.cpu.vcpu)
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
        self.board.aside.insert(spawn.tid, copy);
        Ok(())
    }

    /// The running task as it would go on.
    fn copy(&mut self) -> Result<Aside, KvmError> {
        let registers = self.program_registers();
        let system = self.cpu.vcpu.system_registers()?;
        let state = self.cpu.vcpu.read()?;
        Ok(Aside {
            registers,
            bases: [system.fs.base, system.gs.base],
            extended: Stored::of(&state, self.cpu.vcpu.parts()),
            ran: self.cpu.turns.pace.ran(kick::now()),
        })
    }

    /// The registers of the program that runs, as it would go on.
    fn program_registers(&mut self) -> kvm_regs {
        let mut registers = match self.cpu.turns.left {
            Left::Call => self.cpu.vcpu.registers_at_call(),
            Left::Fault(frame) => kvm_regs {
                rip: frame.rip,
                rsp: frame.rsp,
                rflags: frame.rflags,
                ..*self.cpu.vcpu.registers()
            },
            Left::Program | Left::Monitor => *self.cpu.vcpu.registers(),
        };
        if let Some(result) = self.cpu.turns.result {
            registers.rax = result;
        }
        registers
    }

    /// Has the program that runs go on with `registers`.
    fn set_program_registers(&mut self, registers: &kvm_regs) -> Result<(), KvmError> {
        let system = self.cpu.vcpu.system_registers()?;
        self.cpu.vcpu.go_on_with(registers, &system);
        self.cpu.turns.left = Left::Program;
        self.cpu.turns.result = None;
        Ok(())
    }

    /// Makes `tid` the task whose registers the processor has.
    fn bring(&mut self, tid: Tid) -> Result<(), KvmError> {
        if self.cpu.turns.inside == Some(tid) {
            return Ok(());
        }
        if let Some(inside) = self.cpu.turns.inside {
            let copy = self.copy()?;
            self.board.aside.insert(inside, copy);
        }
        self.cpu.turns.inside = Some(tid);
        self.board.linux.reside(Some(tid));
        self.cpu.turns.result = None;
        self.cpu.turns.pace.begin(tid, kick::now());
        if let Some(next) = self.board.aside.remove(&tid) {
            let mut system = self.cpu.vcpu.system_registers()?;
            [system.fs.base, system.gs.base] = next.bases;
            self.cpu.vcpu.go_on_with(&next.registers, &system);
            self.cpu.vcpu.write(next.extended.bytes())?;
            self.cpu.turns.left = Left::Program;
        }
        Ok(())
    }

    /// Brings the processor to where it runs the guest on: the same task, or the next, after its
    /// signals. If all wait it rests.
    pub(super) fn go_on(&mut self) -> Result<Next, KvmError> {
        if self.cpu.turns.left != Left::Monitor {
            self.cpu.turns.pace.got_out();
        }
        while self.cpu.turns.left != Left::Monitor {
            if let Some(call) = self.cpu.turns.outside.take() {
                return Ok(Next::Disk(call));
            }
            let Some((tid, reply)) = self.board.linux.next_task() else {
                return Ok(self.rest());
            };
            self.bring(tid)?;
            if let Some(reply) = reply
                && let Some(outcome) = self.answer(reply)?
            {
                return Ok(Next::End(outcome));
            }
            if self.cpu.turns.outside.is_some() {
                continue;
            }
            if self.board.linux.has_signals() || self.cpu.turns.restart.is_some() {
                let mut registers = self.program_registers();
                let restart = self.cpu.turns.restart.take();
                if let Err(outcome) =
                    self.board
                        .linux
                        .deliver(&mut registers, restart, &mut self.cpu.vcpu)
                {
                    return Ok(Next::End(at(outcome, &registers)));
                }
                self.set_program_registers(&registers)?;
            }
            if self.board.linux.goes_on() {
                break;
            }
        }
        self.resume()?;
        Ok(Next::Enter)
    }

    fn resume(&mut self) -> Result<(), KvmError> {
        let result = self.cpu.turns.result.take();
        match self.cpu.turns.left {
            Left::Call => self.cpu.vcpu.return_from_call(result.unwrap_or_default())?,
            Left::Fault(frame) => {
                let system = self.cpu.vcpu.system_registers()?;
                self.cpu.vcpu.return_from_fault(&frame, &system);
            }
            Left::Program | Left::Monitor => {
                if let Some(result) = result {
                    self.cpu.vcpu.registers().rax = result;
                }
            }
        }
        self.set_alarm()
    }

    /// Sees that the processor leaves in time for others, and for what is to be done at a time.
    fn set_alarm(&mut self) -> Result<(), KvmError> {
        let watched = self.is_watched();
        if let Some(deadline) = self.board.linux.deadline().filter(|_| !watched) {
            self.cpu.kicks.arm(deadline)?;
        }
        let waits = self.board.linux.descriptor_waits().filter(|_| !watched);
        // One whose turn is over is on its way out of the monitor's code, and must get there.
        if self.board.linux.goes_on() && (self.board.linux.has_ready() || waits.is_some()) {
            let ready = self.board.linux.ready();
            let next = self.cpu.turns.pace.next(waits, ready, kick::now());
            self.cpu.kicks.arm(next)?;
        }
        Ok(())
    }

    /// The processor was stopped by a signal of the host.
    pub(super) fn interrupted(&mut self) -> Result<(), KvmError> {
        self.board.exits.interrupted += 1;
        let ready = self.board.linux.ready().count();
        self.take_kicks();
        self.look_at_descriptors()?;
        for tid in self.board.linux.ready().skip(ready) {
            let aside = self.board.aside.get(&tid);
            let ran = aside.map_or_else(Timespec::default, |aside| aside.ran);
            self.cpu.turns.pace.wake(tid, ran);
        }
        if self.cpu.turns.pace.is_over(kick::now()) {
            self.board.linux.end_turn();
        }
        let at_program = self.cpu.vcpu.is_at_program()?;
        self.cpu.turns.left = if at_program {
            Left::Program
        } else {
            Left::Monitor
        };
        if !at_program && (!self.board.linux.goes_on() || self.board.linux.has_signals()) {
            // It may get out without another exit.
            let again = self.cpu.turns.pace.stopped_inside(kick::now());
            self.cpu.kicks.arm(again)?;
        }
        Ok(())
    }

    fn take_kicks(&mut self) {
        let came = self.cpu.kicks.take();
        for signal in came.signals {
            self.board.linux.pass_on(signal);
        }
        for signal in came.stops {
            self.board.linux.pass_on_stop(signal);
        }
        if came.tick {
            self.board.linux.pass(kick::now());
        }
    }

    fn look_at_descriptors(&mut self) -> Result<(), KvmError> {
        if self.is_watched() {
            return Ok(());
        }
        let waits: Vec<_> = self.board.linux.descriptors().collect();
        if waits.is_empty() {
            return Ok(());
        }
        self.wake_all(&self.cpu.kicks.look(&waits)?);
        self.cpu.turns.pace.looked(kick::now());
        Ok(())
    }

    /// The processor has rested, and what those of `woken` waited for has come, if that is known.
    pub(super) fn rested(&mut self, woken: Option<&[Tid]>) -> Result<Next, KvmError> {
        match woken {
            Some(woken) => self.wake_all(woken),
            None => self.look_at_descriptors()?,
        }
        self.take_kicks();
        let now = kick::now();
        self.board.linux.pass(now);
        if let Some(inside) = self.cpu.turns.inside {
            self.cpu.turns.pace.begin(inside, now);
        }
        self.go_on()
    }

    /// What the running task's call waited for is done, and returns `result`.
    pub(super) fn done_outside(&mut self, result: u64) -> Result<Next, KvmError> {
        self.board.linux.trace_result(result);
        self.cpu.turns.result = Some(result);
        self.go_on()
    }

    fn wake_all(&mut self, tids: &[Tid]) {
        for &tid in tids {
            self.board.linux.wake(tid);
        }
    }

    /// Has the running task's handler deal with an exception, which is `fault` if it has none. How that
    /// ends the guest, if it does.
    pub(super) fn handle(
        &mut self,
        exception: &Exception,
        fault: Fault,
    ) -> Result<Option<Outcome>, KvmError> {
        let mut registers = self.program_registers();
        let handled =
            self.board
                .linux
                .deliver_exception(&mut registers, exception, &mut self.cpu.vcpu);
        match handled {
            Ok(true) => {
                self.set_program_registers(&registers)?;
                Ok(None)
            }
            Ok(false) => Ok(Some(Outcome::Fault(fault))),
            Err(outcome) => Ok(Some(at(outcome, &registers))),
        }
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
