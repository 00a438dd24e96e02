//! Delivering: what happens between a task's last instruction and its next.

use pool_core::address::USER_ADDRESS_END;
use rustix::io::Errno;

use super::super::{Linux, Registers, Restart, Stop};
use super::frame::{self, Content, FRAME, Places, Returned, Shape, Trap};
use super::{Action, Info, Signal, SignalStack, UNSTOPPABLE, bit};
use crate::fault::{Allowed, Cause, Fault, Outcome};
use crate::memory::Access;

/// Bytes of a `SYSCALL` instruction.
const CALL_BYTES: u64 = 2;
/// Flags that a handler starts without: direction, resumption, single step.
const CLEARED: u64 = 1 << 10 | 1 << 16 | 1 << 8;

/// Why the processor's extended state cannot be had or set.
#[derive(Debug)]
pub enum StateError {
    /// It is not one that a processor has.
    Invalid,
    /// The platform failed.
    Platform(std::io::Error),
}

impl From<StateError> for Stop {
    fn from(error: StateError) -> Self {
        let words = match error {
            StateError::Invalid => "the processor's own state was refused".to_owned(),
            StateError::Platform(error) => format!("the processor's extended state: {error}"),
        };
        Self::Fault(Cause::Machine(words))
    }
}

/// The processor's state beyond the general registers (x87, SSE, AVX), of the task that is about to
/// run, in XSAVE's standard form.
pub trait ExtendedState {
    /// Which parts it has.
    fn shape(&self) -> Shape;
    /// The state, [`Shape::bytes`] long.
    fn read(&mut self) -> Result<Vec<u8>, StateError>;
    /// Sets the state.
    fn write(&mut self, state: &[u8]) -> Result<(), StateError>;
}

/// An exception of the processor, as a signal tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exception {
    /// The signal.
    pub signal: i32,
    /// Its `si_code`.
    pub code: i32,
    /// Its `si_addr`.
    pub address: u64,
    /// Number of the exception.
    pub vector: u8,
    /// Its error code.
    pub error: u64,
    /// The address of the last page fault.
    pub page_fault: u64,
}

impl Linux {
    /// True if the task that runs has something to be delivered before it goes on.
    pub fn has_signals(&self) -> bool {
        let task = self.tasks.get(self.serving);
        self.signals_due(self.serving) != 0 || task.is_some_and(|task| task.saved_mask.is_some())
    }

    /// Delivers what is due to the running task, whose registers are `registers` as it would go on.
    /// `restart` is a call that a signal ended, if it can be made again: it is, unless a handler runs that did
    /// not ask for that.
    pub fn deliver(
        &mut self,
        registers: &mut Registers,
        mut restart: Option<Restart>,
        extended: &mut dyn ExtendedState,
    ) -> Result<(), Outcome> {
        let tid = self.serving;
        loop {
            let due = self.signals_due(tid);
            let Some(info) = self.take_signal(tid, due) else {
                break;
            };
            self.trace_signal(tid, &info);
            let action = *self.signals.action(info.signal);
            if action.ignores(info.signal) {
                continue;
            }
            if action.stops(info.signal) {
                self.stop(info.signal);
                continue;
            }
            if !action.is_handler() {
                return Err(Outcome::Signalled(info.signal.into()));
            }
            if let Some(call) = restart.take()
                && (call.always || action.has(libc::SA_RESTART))
            {
                make_again(registers, call.number);
            }
            if self
                .enter(registers, &info, action, Trap::default(), extended)?
                .is_err()
            {
                self.force(registers, info.signal, Trap::default(), extended)?;
            }
        }
        if let Some(call) = restart {
            make_again(registers, call.number);
        }
        self.restore_mask();
        self.land(registers, extended)
    }

    /// Delivers an exception to the running task's handler. False if it has none for it, or blocks
    /// it, or it is the handler of faults that has no room: then it is the guest's end.
    pub fn deliver_exception(
        &mut self,
        registers: &mut Registers,
        exception: &Exception,
        extended: &mut dyn ExtendedState,
    ) -> Result<bool, Outcome> {
        let handled = self.raise(registers, exception, extended)?;
        if handled {
            self.land(registers, extended)?;
        }
        Ok(handled)
    }

    /// A handler may be where no program may go on. Its frame is there, and then going on there is a fault of its
    /// own, before the processor has a part in it: not each would say so in the same way.
    fn land(
        &mut self,
        registers: &mut Registers,
        extended: &mut dyn ExtendedState,
    ) -> Result<(), Outcome> {
        while registers.rip >= USER_ADDRESS_END {
            let (exception, cause) = nowhere(registers.rip);
            if !self.raise(registers, &exception, extended)? {
                return Err(Outcome::Fault(Fault {
                    cause,
                    instruction_pointer: registers.rip,
                    stack_pointer: registers.rsp,
                }));
            }
        }
        Ok(())
    }

    fn raise(
        &mut self,
        registers: &mut Registers,
        exception: &Exception,
        extended: &mut dyn ExtendedState,
    ) -> Result<bool, Outcome> {
        self.trace_exception(exception);
        let signal = exception.signal as Signal;
        let action = *self.signals.action(signal);
        if !action.is_handler() || self.task().mask & bit(signal) != 0 {
            return Ok(false);
        }
        let info = Info::new(signal, exception.code).with(0, exception.address);
        let trap = Trap {
            vector: exception.vector.into(),
            error: exception.error,
            address: exception.page_fault,
        };
        let entered = self.enter(registers, &info, action, trap, extended)?;
        if entered.is_err() && exception.signal != libc::SIGSEGV {
            self.force(registers, signal, trap, extended)?;
            return Ok(true);
        }
        Ok(entered.is_ok())
    }

    /// No frame can be put where `signal`'s handler wants it: that is a fault of its own. What `trap` tells
    /// stays.
    fn force(
        &mut self,
        registers: &mut Registers,
        signal: Signal,
        trap: Trap,
        extended: &mut dyn ExtendedState,
    ) -> Result<(), Outcome> {
        let fault = libc::SIGSEGV as Signal;
        let action = *self.signals.action(fault);
        let blocked = self.task().mask & bit(fault) != 0;
        let end = Outcome::Signalled(libc::SIGSEGV);
        if signal == fault || !action.is_handler() || blocked {
            return Err(end);
        }
        let info = Info::new(fault, libc::SI_KERNEL);
        self.enter(registers, &info, action, trap, extended)?
            .map_err(|_| end)
    }

    /// Has the running task go on with the handler of `action`. The inner error means that there
    /// is no room for its frame.
    fn enter(
        &mut self,
        registers: &mut Registers,
        info: &Info,
        action: Action,
        trap: Trap,
        extended: &mut dyn ExtendedState,
    ) -> Result<Result<(), Errno>, Outcome> {
        let shape = extended.shape();
        let stack = self.task().stack;
        let mask = self.task().saved_mask.unwrap_or(self.task().mask);
        let inside = stack.is_used(registers.rsp);
        let alternate = action.has(libc::SA_ONSTACK) && stack.is_set() && !inside;
        let top = if alternate {
            stack.start.wrapping_add(stack.length)
        } else {
            registers.rsp
        };
        let Some(places) = frame::places(top, alternate, shape) else {
            return Ok(Err(Errno::FAULT));
        };
        let within = places.frame > stack.start;
        if action.flags & SA_RESTORER == 0 || ((alternate || inside) && !within) {
            return Ok(Err(Errno::FAULT));
        }
        let content = Content {
            restorer: action.restorer,
            registers,
            mask,
            stack: stack.bytes(registers.rsp),
            info,
            trap,
        };
        let bytes = content.bytes(places);
        let mut state = extended.read().map_err(fatal)?;
        frame::sign(&mut state, shape);
        if self.memory.write(places.extended, &state).is_err()
            || self.memory.write(places.frame, &bytes).is_err()
        {
            return Ok(Err(Errno::FAULT));
        }
        extended.write(&frame::fresh(shape)).map_err(fatal)?;
        self.enter_with(registers, info.signal, action, places);
        Ok(Ok(()))
    }

    fn enter_with(
        &mut self,
        registers: &mut Registers,
        signal: Signal,
        action: Action,
        places: Places,
    ) {
        registers.rdi = signal.into();
        registers.rsi = places.frame + frame::INFO as u64;
        registers.rdx = places.frame + frame::CONTEXT as u64;
        registers.rax = 0;
        registers.rsp = places.frame;
        registers.rip = action.handler;
        registers.rflags &= !CLEARED;
        if action.has(libc::SA_RESETHAND) {
            self.signals.action(signal).handler = Action::DEFAULT;
        }
        let own = if action.has(libc::SA_NODEFER) {
            0
        } else {
            bit(signal)
        };
        let task = self.task();
        task.saved_mask = None;
        task.mask = (task.mask | action.mask | own) & !UNSTOPPABLE;
        if task.stack.disarms {
            task.stack = SignalStack::default();
        }
        self.offer_shared();
    }

    /// The end of a handler: the running task goes on with what its frame says, as far as a program may.
    /// If that is nothing, it is as if it had touched an address that it may not.
    pub fn return_from_signal(
        &mut self,
        registers: &mut Registers,
        extended: &mut dyn ExtendedState,
    ) -> Result<(), Outcome> {
        match self.take_frame(registers, extended) {
            Ok(()) => {
                self.trace_result(registers.rax);
                Ok(())
            }
            Err(StateError::Invalid) => {
                let handled = Exception {
                    signal: libc::SIGSEGV,
                    code: libc::SI_KERNEL,
                    ..Exception::default()
                };
                if self.deliver_exception(registers, &handled, extended)? {
                    Ok(())
                } else {
                    Err(Outcome::Signalled(libc::SIGSEGV))
                }
            }
            Err(error) => Err(fatal(error)),
        }
    }

    fn take_frame(
        &mut self,
        registers: &mut Registers,
        extended: &mut dyn ExtendedState,
    ) -> Result<(), StateError> {
        const INVALID: StateError = StateError::Invalid;
        let mut bytes = [0; FRAME];
        let at = registers.rsp.wrapping_sub(8);
        self.memory.read(at, &mut bytes).map_err(|_| INVALID)?;
        let returned = Returned::parse(&bytes).ok_or(INVALID)?;
        if returned.registers.rip >= USER_ADDRESS_END {
            return Err(INVALID);
        }
        let shape = extended.shape();
        let state = if returned.extended == 0 {
            frame::fresh(shape)
        } else {
            self.read_state(returned.extended, shape).ok_or(INVALID)?
        };
        extended.write(&state)?;
        *registers = returned.registers;
        self.task().mask = returned.mask & !UNSTOPPABLE;
        // Linux does not mind either if it cannot be set.
        let _ = self.set_signal_stack(&returned.stack, registers.rsp);
        self.offer_shared();
        Ok(())
    }

    fn read_state(&mut self, at: u64, shape: Shape) -> Option<Vec<u8>> {
        let mut head = [0; frame::HEAD];
        self.memory.read(at, &mut head).ok()?;
        let mut state = head.to_vec();
        if let Some(length) = frame::signed_length(&head, shape) {
            let mut whole = vec![0; length + frame::END.len()];
            self.memory.read(at, &mut whole).ok()?;
            if whole[length..] == frame::END {
                whole.truncate(length);
                state = whole;
            }
        }
        frame::check(&mut state, shape)?;
        Some(state)
    }
}

/// Goes back to the instruction that made call `number`.
fn make_again(registers: &mut Registers, number: u64) {
    registers.rip = registers.rip.wrapping_sub(CALL_BYTES);
    registers.rax = number;
}

/// What Linux tells a program that would go on at `address`, which is the kernel's or none that there is; and what
/// the VMM would say.
fn nowhere(address: u64) -> (Exception, Cause) {
    /// `SEGV_MAPERR`.
    const NOT_MAPPED: i32 = 1;
    /// A fetch at CPL 3 from a page that is there, as Linux says of each of its own.
    const FETCH: u64 = 1 << 4 | 1 << 2 | 1;
    let fault = Exception {
        signal: libc::SIGSEGV,
        ..Exception::default()
    };
    let is_canonical = matches!(address >> 47, 0 | 0x1_ffff);
    if is_canonical {
        let exception = Exception {
            code: NOT_MAPPED,
            address,
            vector: 14,
            error: FETCH,
            page_fault: address,
            ..fault
        };
        let cause = Cause::Memory {
            address,
            access: Some(Access::Execute),
            allowed: Allowed::Unmapped,
        };
        return (exception, cause);
    }
    let exception = Exception {
        code: libc::SI_KERNEL,
        vector: 13,
        ..fault
    };
    (exception, Cause::Protection)
}

fn fatal(error: StateError) -> Outcome {
    let words = match Stop::from(error) {
        Stop::Fault(Cause::Machine(words)) => words,
        _ => String::new(),
    };
    Outcome::Fault(Fault {
        cause: Cause::Machine(words),
        instruction_pointer: 0,
        stack_pointer: 0,
    })
}

/// The action names the code that ends a handler; every C library's does.
const SA_RESTORER: u64 = 0x0400_0000;
