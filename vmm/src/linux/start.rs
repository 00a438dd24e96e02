//! The stack that a Linux program finds at its first instruction: arguments, environment and the
//! auxiliary vector (System V ABI, AMD64 supplement, 3.4.1).

use std::ops::Range;

use pool_core::PAGE_SIZE;
use rustix::rand::{GetRandomFlags, getrandom};
use thiserror::Error;

use crate::plan::{Plan, STACK_SIZE};

/// Arguments and environment may take this much of the stack, as under Linux.
const MOST_TEXT: u64 = STACK_SIZE / 4;
const HWCAP2_FSGSBASE: u64 = 1 << 1;
/// Bytes that a signal's frame takes; from a kernel that says so (Linux 5.14).
const AT_MINSIGSTKSZ: u64 = 51;
const PROGRAM_HEADER_SIZE: u64 = 56;

/// Why a guest's stack cannot be built.
#[derive(Debug, Error)]
pub enum StartError {
    /// Too many arguments.
    #[error("arguments and environment take more than {MOST_TEXT} bytes: pass less, or by a file")]
    TooLong,
    /// An argument with a NUL inside.
    #[error("argument or environment variable {0:?} holds a NUL byte")]
    Nul(String),
    /// No random bytes for `AT_RANDOM`.
    #[error("reading random bytes: {0}")]
    Random(#[from] rustix::io::Errno),
}

/// What a program is started with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// `argv`, the program's name first.
    pub arguments: Vec<Vec<u8>>,
    /// `KEY=VALUE` each.
    pub environment: Vec<Vec<u8>>,
}

/// The bytes at the top of the stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    /// The stack pointer: guest address of the first byte, a multiple of 16.
    pub pointer: u64,
    /// Everything from the stack pointer to the end of the stack.
    pub bytes: Vec<u8>,
    /// Guest addresses of the strings of `argv`, which follow each other.
    pub arguments: Range<u64>,
    /// Guest addresses of the environment's strings, which follow those of `argv`.
    pub environment: Range<u64>,
    /// Guest addresses of the auxiliary vector.
    pub auxiliary: Range<u64>,
}

impl Start {
    /// Lays the stack of `plan` out. `fsgsbase` tells the program that it may write its thread
    /// pointer itself, `vdso` where the vdso is, if there is one.
    pub fn build(
        &self,
        plan: &Plan,
        fsgsbase: bool,
        vdso: Option<u64>,
    ) -> Result<Stack, StartError> {
        let mut random = [0; 16];
        getrandom(&mut random, GetRandomFlags::empty())?;
        let (hwcap, hwcap2) = rustix::param::linux_hwcap();
        let mut hwcap2 = hwcap2 as u64 & !HWCAP2_FSGSBASE;
        if fsgsbase {
            hwcap2 |= HWCAP2_FSGSBASE;
        }
        let signal_stack = rustix::param::linux_minsigstksz() as u64;
        self.lay_out(plan, random, [hwcap as u64, hwcap2, signal_stack], vdso)
    }

    fn lay_out(
        &self,
        plan: &Plan,
        random: [u8; 16],
        [hwcap, hwcap2, signal_stack]: [u64; 3],
        vdso: Option<u64>,
    ) -> Result<Stack, StartError> {
        let mut text = Text::below(plan.rooms.stack_high.0 - 16 - plan.stack_gap);
        let random_at = text.push(&random)?;
        let platform = text.push(b"x86_64\0")?;
        let name = self.arguments.first().map_or(&[][..], Vec::as_slice);
        let file_name = text.push_string(name)?;
        let end = text.lowest();
        let environment = text.push_all(&self.environment)?;
        let environment_at = text.lowest()..end;
        let arguments = text.push_all(&self.arguments)?;
        let arguments_at = text.lowest()..environment_at.start;

        let identity = |id: u32| u64::from(id);
        let mut auxiliary = vec![
            (libc::AT_HWCAP, hwcap),
            (libc::AT_HWCAP2, hwcap2),
            (libc::AT_PAGESZ, PAGE_SIZE),
            (libc::AT_CLKTCK, 100),
            (libc::AT_BASE, 0),
            (libc::AT_FLAGS, 0),
            (libc::AT_ENTRY, plan.entry.0),
            (libc::AT_UID, identity(rustix::process::getuid().as_raw())),
            (libc::AT_EUID, identity(rustix::process::geteuid().as_raw())),
            (libc::AT_GID, identity(rustix::process::getgid().as_raw())),
            (libc::AT_EGID, identity(rustix::process::getegid().as_raw())),
            (libc::AT_SECURE, 0),
            (libc::AT_RANDOM, random_at),
            (libc::AT_PLATFORM, platform),
            (libc::AT_EXECFN, file_name),
        ];
        auxiliary.extend(vdso.map(|address| (libc::AT_SYSINFO_EHDR, address)));
        if signal_stack > 0 {
            auxiliary.push((AT_MINSIGSTKSZ, signal_stack));
        }
        if let Some(headers) = plan.program_headers {
            auxiliary.extend([
                (libc::AT_PHDR, headers.address.0),
                (libc::AT_PHENT, PROGRAM_HEADER_SIZE),
                (libc::AT_PHNUM, headers.count.into()),
            ]);
        }
        auxiliary.push((libc::AT_NULL, 0));

        let mut words = vec![arguments.len() as u64];
        words.extend(&arguments);
        words.push(0);
        words.extend(&environment);
        words.push(0);
        let before = words.len() as u64 * 8;
        words.extend(auxiliary.iter().flat_map(|&(key, value)| [key, value]));
        let length = words.len() as u64 * 8;
        let (pointer, bytes) = text.finish(&words)?;
        Ok(Stack {
            pointer,
            bytes,
            arguments: arguments_at,
            environment: environment_at,
            auxiliary: pointer + before..pointer + length,
        })
    }
}

/// Strings that grow downwards from the top of the stack.
struct Text {
    top: u64,
    /// In reverse order of address.
    pieces: Vec<Vec<u8>>,
    length: u64,
}

impl Text {
    fn below(top: u64) -> Self {
        Self {
            top,
            pieces: Vec::new(),
            length: 0,
        }
    }

    /// Address of the last piece.
    fn lowest(&self) -> u64 {
        self.top - self.length
    }

    fn push(&mut self, bytes: &[u8]) -> Result<u64, StartError> {
        self.length += bytes.len() as u64;
        if self.length > MOST_TEXT {
            return Err(StartError::TooLong);
        }
        self.pieces.push(bytes.to_vec());
        Ok(self.lowest())
    }

    fn push_string(&mut self, string: &[u8]) -> Result<u64, StartError> {
        if string.contains(&0) {
            return Err(StartError::Nul(
                String::from_utf8_lossy(string).into_owned(),
            ));
        }
        self.push(&[string, b"\0"].concat())
    }

    /// The last string first, so that they follow each other upwards, as programs that write their own
    /// title rely on.
    fn push_all(&mut self, strings: &[Vec<u8>]) -> Result<Vec<u64>, StartError> {
        let pushed = strings.iter().rev().map(|string| self.push_string(string));
        let mut addresses: Vec<u64> = pushed.collect::<Result<_, _>>()?;
        addresses.reverse();
        Ok(addresses)
    }

    /// Puts `words` below the strings: the stack pointer, and all bytes from there.
    fn finish(mut self, words: &[u64]) -> Result<(u64, Vec<u8>), StartError> {
        let lowest = self.lowest();
        let pointer = (lowest - words.len() as u64 * 8) & !15;
        let gap = (lowest - pointer) as usize - words.len() * 8;
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        if bytes.len() as u64 > MOST_TEXT {
            return Err(StartError::TooLong);
        }
        bytes.resize(bytes.len() + gap, 0);
        while let Some(piece) = self.pieces.pop() {
            bytes.extend_from_slice(&piece);
        }
        Ok((pointer, bytes))
    }
}
