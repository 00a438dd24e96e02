//! Calls that the host's kernel serves: their arguments are what [`Arg`] says, pointers are followed
//! here, and the rest is the kernel's, in the guest's own view of the file system. What is wrong with several arguments is
//! said in the kernel's order, too: a descriptor that is none, and a pointer that leads nowhere, are handed on as such.

use std::os::fd::RawFd;

use rustix::io::Errno;

use super::{Arguments, Linux, Served, Stop, host};

/// Longest path, with its NUL.
const MAX_PATH: usize = 4096;
const AT_FDCWD: i32 = libc::AT_FDCWD;
/// Most bytes of a list that are handed over at once: names of a directory, of attributes.
const MOST_BYTES: u64 = 64 << 10;
/// An address that no process has. The kernel gets it for what the guest does not have either, and says so when it comes to
/// that: after flags that there are not, say.
const NOWHERE: u64 = u64::MAX << 12;

/// What an argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arg {
    /// A number, as it is.
    Value,
    /// Flags, an `int`: others than these are refused with `EINVAL`.
    Flags(u32),
    /// An open descriptor.
    Descriptor,
    /// An open descriptor of a file that is not one of the guest's standard files, which are the
    /// operator's: the guest may use those, and not change what they are.
    Granted,
    /// The directory that a relative path starts at, or `AT_FDCWD`.
    Directory,
    /// A path. An empty one can stand for the descriptor in front of it, which is as [`Arg::Granted`] then.
    Path,
    /// The same, where null says it too.
    PathOrNull,
    /// A path of what is only looked at: an empty one can stand for any descriptor in front of it, and so can null
    /// (Linux 6.11).
    PathToSee,
    /// Any other string.
    Text,
    /// The mode of a file: no set-user-ID and no set-group-ID bit, since what a guest leaves in a
    /// granted directory lies in the host's file system.
    Mode,
    /// The same with what kind of file it is: no device, whoever asks.
    Node,
    /// A structure of so many bytes that the kernel reads, or null.
    In(u16),
    /// A structure of so many bytes that the kernel writes, or null.
    Out(u16),
    /// Both.
    InOut(u16),
    /// Bytes that the kernel reads, as many as the argument of this number says.
    InBytes(u8),
    /// Two new descriptors, which the kernel writes.
    Descriptors,
    /// Bytes that the kernel writes, as many as the call returns and at most as many as the argument of
    /// this number says.
    OutBytes(u8),
    /// The same, where the kernel takes the number for an `int`.
    OutText(u8),
    /// Bytes that the kernel writes, whose room and length are at the argument of this number.
    OutSized(u8),
    /// Where that room and length is: 4 bytes.
    Size,
}

/// What is to be copied back when the call has been served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Back {
    Nothing,
    Whole,
    Returned,
    /// As many bytes as the buffer of this argument says.
    Sized(usize),
}

/// What the kernel gets for an argument.
enum Placed {
    Value(u64),
    Buffer(Vec<u8>, Back),
}

/// What the kernel gets for each argument that is a pointer.
type Buffers = [(Vec<u8>, Back); 6];

/// Serves call `number`, which does not wait, by the host's kernel.
pub(super) fn pass(linux: &mut Linux, number: u64, kinds: &[Arg], arguments: Arguments) -> Served {
    serve(linux, number, kinds, arguments, |_| Ok(()), |_| ())
}

/// The same, if `check` has nothing against what the kernel reads for argument `at`. In the guest's memory that may change meanwhile.
pub(super) fn pass_checked(
    linux: &mut Linux,
    number: u64,
    kinds: &[Arg],
    arguments: Arguments,
    (at, check): (usize, impl FnOnce(&[u8]) -> Result<(), Stop>),
) -> Served {
    let before = |buffers: &Buffers| check(&buffers[at].0);
    serve(linux, number, kinds, arguments, before, |_| ())
}

/// The same as [`pass`], where `change` is done to what the kernel has written for argument `at` before the guest has it.
pub(super) fn pass_changed(
    linux: &mut Linux,
    number: u64,
    kinds: &[Arg],
    arguments: Arguments,
    (at, change): (usize, impl FnOnce(&mut [u8])),
) -> Served {
    let after = |buffers: &mut Buffers| change(&mut buffers[at].0);
    serve(linux, number, kinds, arguments, |_| Ok(()), after)
}

fn serve(
    linux: &mut Linux,
    number: u64,
    kinds: &[Arg],
    arguments: Arguments,
    before: impl FnOnce(&Buffers) -> Result<(), Stop>,
    after: impl FnOnce(&mut Buffers),
) -> Served {
    if !linux.reach.world
        && let Some(served) = linux.look(number, &arguments)
    {
        return served;
    }
    let mut buffers: Buffers = std::array::from_fn(|_| (Vec::new(), Back::Nothing));
    let mut raw = [0; 6];
    // What the kernel is told of lengths is looked at once: others may write to shared memory.
    let mut told = arguments;
    let mut room = 0;
    for (at, kind) in kinds.iter().enumerate() {
        match *kind {
            Arg::OutBytes(length) => {
                let length = &mut told[usize::from(length)];
                *length = (*length).min(MOST_BYTES);
            }
            Arg::OutText(length) => {
                let length = &mut told[usize::from(length)];
                let room = u32::try_from(*length as i32).map_err(|_| Errno::INVAL)?;
                *length = u64::from(room).min(MOST_BYTES);
            }
            Arg::Size if arguments[at] != 0 => {
                room = linux.memory.read_value::<i32>(arguments[at])?;
                room = room.min(MOST_BYTES as i32);
            }
            _ => {}
        }
    }
    for (at, buffer) in buffers.iter_mut().enumerate().take(kinds.len()) {
        raw[at] = match linux.place(kinds, at, &told, room)? {
            Placed::Value(value) => value,
            Placed::Buffer(bytes, back) => {
                *buffer = (bytes, back);
                buffer.0.as_mut_ptr() as u64
            }
        };
    }
    before(&buffers)?;
    // SAFETY: each argument that is an address to the kernel is null, nobody's, or the buffer that its kind in the
    // table asks for, as long as the kernel is told; descriptors are the guest's.
    let result = unsafe { host::call(number, raw) }?;
    after(&mut buffers);
    let told = linux.copy_back(&buffers, &arguments, result);
    if told.is_err() {
        // What nobody was told of nobody would close.
        for number in made(number, kinds, &buffers, result) {
            let _ = host::close(number);
        }
    }
    told.map(|()| result)
}

/// What the kernel gets for the arguments of a call that follows no pointer ([`super::table`]'s `Disk`).
pub(super) fn numbers(
    linux: &mut Linux,
    kinds: &[Arg],
    arguments: Arguments,
) -> Result<Arguments, Stop> {
    let mut raw = [0; 6];
    for (at, raw) in raw.iter_mut().enumerate().take(kinds.len()) {
        *raw = match linux.place(kinds, at, &arguments, 0)? {
            Placed::Value(value) => value,
            Placed::Buffer(..) => return Err(Errno::NOSYS.into()),
        };
    }
    Ok(raw)
}

/// The descriptors that call `number` has made.
fn made(number: u64, kinds: &[Arg], buffers: &Buffers, result: u64) -> Vec<RawFd> {
    if [libc::SYS_accept, libc::SYS_accept4].contains(&(number as i64)) {
        return vec![result as RawFd];
    }
    let pairs = kinds.iter().zip(buffers);
    pairs
        .filter(|(kind, _)| **kind == Arg::Descriptors)
        .flat_map(|(_, (bytes, _))| bytes.chunks_exact(4))
        .map(|number| RawFd::from_le_bytes([number[0], number[1], number[2], number[3]]))
        .collect()
}

impl Linux {
    /// Copies back what the kernel has written.
    fn copy_back(
        &mut self,
        buffers: &Buffers,
        arguments: &Arguments,
        result: u64,
    ) -> Result<(), Stop> {
        for (at, (bytes, back)) in buffers.iter().enumerate() {
            let length = match *back {
                Back::Nothing => continue,
                Back::Whole => bytes.len(),
                Back::Returned => bytes.len().min(result as usize),
                Back::Sized(size) => {
                    let said = buffers[size].0.as_slice().try_into();
                    bytes.len().min(said.map_or(0, u32::from_le_bytes) as usize)
                }
            };
            self.memory.write(arguments[at], &bytes[..length])?;
        }
        Ok(())
    }

    /// What the kernel gets for argument `at`; `room` is what lies at the one that is an [`Arg::Size`].
    fn place(
        &mut self,
        kinds: &[Arg],
        at: usize,
        arguments: &Arguments,
        room: i32,
    ) -> Result<Placed, Stop> {
        let value = arguments[at];
        let read = |bytes| Placed::Buffer(bytes, Back::Nothing);
        Ok(match kinds[at] {
            Arg::Flags(known) if value as u32 & !known != 0 => {
                return Err(Stop::Refused(Errno::INVAL));
            }
            Arg::Node
                if [libc::S_IFCHR, libc::S_IFBLK].contains(&(value as u32 & libc::S_IFMT)) =>
            {
                return Err(Errno::PERM.into());
            }
            Arg::Mode | Arg::Node if value as u32 & (libc::S_ISUID | libc::S_ISGID) != 0 => {
                return Err(Stop::Refused(Errno::PERM));
            }
            Arg::Value | Arg::Flags(_) | Arg::Mode | Arg::Node => Placed::Value(value),
            Arg::Directory if value as i32 == AT_FDCWD => Placed::Value(value),
            // What is none is handed on as none, which is as good as any for an absolute path.
            Arg::Directory | Arg::Descriptor => {
                Placed::Value(self.descriptor(value).unwrap_or(-1) as u64)
            }
            Arg::Granted => Placed::Value(match self.granted(value) {
                Err(Errno::BADF) => u64::MAX,
                granted => granted? as u64,
            }),
            Arg::PathOrNull if value == 0 => {
                self.named(kinds, at, arguments)?;
                Placed::Value(0)
            }
            Arg::PathToSee if value == 0 => {
                Placed::Value(self.named(kinds, at, arguments).map_or(NOWHERE, |()| value))
            }
            Arg::Path | Arg::PathOrNull | Arg::PathToSee => match self.text(value) {
                // An empty one still has its NUL.
                Ok(path) if path.len() == 1 => {
                    self.named(kinds, at, arguments)?;
                    read(path)
                }
                Ok(_) if !self.reach.world => return Err(Errno::NOENT.into()),
                Ok(path) => read(path),
                // Of what is no file's the kernel need not hear.
                Err(wrong) if !self.reach.world => return Err(wrong),
                Err(wrong) => as_wrong(wrong)?,
            },
            Arg::Text => match self.text(value) {
                Ok(text) => read(text),
                Err(wrong) => as_wrong(wrong)?,
            },
            Arg::In(_) | Arg::Out(_) | Arg::InOut(_) | Arg::OutSized(_) | Arg::Size
                if value == 0 =>
            {
                Placed::Value(0)
            }
            Arg::In(length) => self.placed(value, u64::from(length))?,
            Arg::InOut(length) => {
                Placed::Buffer(self.bytes(value, u64::from(length))?, Back::Whole)
            }
            Arg::Out(length) => Placed::Buffer(vec![0; usize::from(length)], Back::Whole),
            Arg::InBytes(length) => match arguments[usize::from(length)] {
                // Too much for any call, which says so before it reads.
                length if length > MOST_BYTES => Placed::Value(NOWHERE),
                length => self.placed(value, length)?,
            },
            Arg::Descriptors => Placed::Buffer(vec![0; 8], Back::Whole),
            Arg::OutBytes(length) | Arg::OutText(length) => match arguments[usize::from(length)] {
                0 => Placed::Value(0),
                _ if value == 0 => Placed::Value(0),
                room => Placed::Buffer(vec![0; room as usize], Back::Returned),
            },
            Arg::OutSized(size) => {
                let size = usize::from(size);
                if arguments[size] == 0 {
                    return Err(Errno::FAULT.into());
                }
                // The kernel refuses less than nothing.
                Placed::Buffer(vec![0; room.max(0) as usize], Back::Sized(size))
            }
            Arg::Size => Placed::Buffer(room.to_le_bytes().to_vec(), Back::Whole),
        })
    }

    /// The host's descriptor of this number, if it is the guest's.
    pub(super) fn descriptor(&self, number: u64) -> Result<i32, Errno> {
        self.own.check(number)
    }

    /// The same, unless it is of one of the guest's standard files.
    pub(super) fn granted(&self, number: u64) -> Result<i32, Errno> {
        let descriptor = self.descriptor(number)?;
        let stat = rustix::fs::fstat(host::borrow(descriptor))?;
        if self.standard.contains(&(stat.st_dev, stat.st_ino)) {
            Err(Errno::PERM)
        } else {
            Ok(descriptor)
        }
    }

    /// `length` bytes that the kernel reads.
    fn placed(&mut self, at: u64, length: u64) -> Result<Placed, Stop> {
        match self.bytes(at, length) {
            Ok(bytes) => Ok(Placed::Buffer(bytes, Back::Nothing)),
            Err(wrong) => as_wrong(wrong),
        }
    }

    /// Checks what argument `at`, an empty path, stands for: nothing, or the descriptor in front of it. That this is none
    /// the kernel says.
    fn named(&self, kinds: &[Arg], at: usize, arguments: &Arguments) -> Result<(), Errno> {
        let directory = at
            .checked_sub(1)
            .filter(|&before| kinds[before] == Arg::Directory);
        let there = if self.reach.world {
            Ok(())
        } else {
            Err(Errno::NOENT)
        };
        let Some(directory) = directory.map(|before| arguments[before]) else {
            return there;
        };
        if directory as i32 == AT_FDCWD {
            return there;
        }
        if kinds[at] == Arg::PathToSee {
            return Ok(());
        }
        match self.granted(directory) {
            Err(Errno::BADF) => {}
            granted => {
                granted?;
            }
        }
        there
    }

    /// A string of the guest, with its NUL.
    pub(super) fn text(&mut self, at: u64) -> Result<Vec<u8>, Stop> {
        let text = self.memory.read_string(at, MAX_PATH - 1)?;
        let mut text = text.ok_or(Errno::NAMETOOLONG)?;
        text.push(0);
        Ok(text)
    }

    fn bytes(&mut self, at: u64, length: u64) -> Result<Vec<u8>, Stop> {
        let mut bytes = vec![0; length as usize];
        self.read_once(at, &mut bytes)?;
        Ok(bytes)
    }
}

/// What the kernel gets for what cannot be read, for `wrong`: something as wrong, if that is a matter of the pointer.
fn as_wrong(wrong: Stop) -> Result<Placed, Stop> {
    match wrong {
        Stop::Error(Errno::FAULT) => Ok(Placed::Value(NOWHERE)),
        Stop::Error(Errno::NAMETOOLONG) => {
            let mut text = vec![b'.'; MAX_PATH];
            text.push(0);
            Ok(Placed::Buffer(text, Back::Nothing))
        }
        other => Err(other),
    }
}
