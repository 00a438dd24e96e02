//! Calls that the host's kernel serves: their arguments are what [`Arg`] says, pointers are followed
//! here, and the rest is the kernel's, in the guest's own view of the file system.

use rustix::io::Errno;

use super::{Arguments, Linux, Served, Stop, host};

/// Longest path, with its NUL.
const MAX_PATH: usize = 4096;
const AT_FDCWD: i32 = -100;
/// Most bytes of a list that are handed over at once: names of a directory, of attributes.
const MOST_BYTES: u64 = 64 << 10;

/// What an argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arg {
    /// A number, as it is.
    Value,
    /// Flags: others than these are refused with `EINVAL`.
    Flags(u64),
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
    /// A path of what is only looked at: an empty one can stand for any descriptor in front of it.
    PathToSee,
    /// Any other string.
    Text,
    /// The mode of a file: no set-user-ID and no set-group-ID bit, since what a guest leaves in a
    /// granted directory lies in the host's file system.
    Mode,
    /// A structure of so many bytes that the kernel reads, or null.
    In(u16),
    /// A structure of so many bytes that the kernel writes, or null.
    Out(u16),
    /// Both.
    InOut(u16),
    /// Bytes that the kernel reads, as many as the argument of this number says.
    InBytes(u8),
    /// Bytes that the kernel writes, as many as the call returns and at most as many as the argument of
    /// this number says.
    OutBytes(u8),
    /// Bytes that the kernel writes, whose room and length are at the argument of this number.
    OutSized(u8),
    /// Where that room and length is: 4 bytes.
    Size,
}

/// What is to be copied back when the call has been served.
enum Back {
    Nothing,
    Whole,
    Returned,
    Sized(usize),
}

/// Serves call `number`, which does not wait, by the host's kernel.
pub(super) fn pass(linux: &mut Linux, number: u64, kinds: &[Arg], arguments: Arguments) -> Served {
    let mut raw = [0; 6];
    let mut buffers: [(Vec<u8>, Back); 6] = std::array::from_fn(|_| (Vec::new(), Back::Nothing));
    for (at, kind) in kinds.iter().enumerate() {
        let value = arguments[at];
        raw[at] = value;
        let buffer = match *kind {
            Arg::Value => continue,
            Arg::Flags(known) if value & !known != 0 => return Err(Errno::INVAL.into()),
            Arg::Flags(_) => continue,
            Arg::Descriptor => {
                raw[at] = linux.descriptor(value)? as u64;
                continue;
            }
            Arg::Granted => {
                raw[at] = linux.granted(value)? as u64;
                continue;
            }
            Arg::Directory => {
                if value as i32 != AT_FDCWD {
                    linux.descriptor(value)?;
                }
                continue;
            }
            Arg::Mode if value as u32 & (libc::S_ISUID | libc::S_ISGID) != 0 => {
                return Err(Errno::PERM.into());
            }
            Arg::Mode => continue,
            Arg::PathOrNull if value == 0 => {
                linux.named(kinds, at, &arguments)?;
                continue;
            }
            Arg::Path | Arg::PathOrNull | Arg::PathToSee => {
                let path = linux.text(value)?;
                let is_empty = path.len() == 1;
                if is_empty {
                    linux.named(kinds, at, &arguments)?;
                } else if !linux.world {
                    return Err(Errno::NOENT.into());
                }
                (path, Back::Nothing)
            }
            Arg::Text => (linux.text(value)?, Back::Nothing),
            Arg::In(_) | Arg::Out(_) | Arg::InOut(_) if value == 0 => continue,
            Arg::In(length) => (linux.bytes(value, u64::from(length))?, Back::Nothing),
            Arg::InOut(length) => (linux.bytes(value, u64::from(length))?, Back::Whole),
            Arg::Out(length) => (vec![0; usize::from(length)], Back::Whole),
            Arg::InBytes(length) => {
                let length = arguments[usize::from(length)];
                if length > MOST_BYTES {
                    return Err(Errno::INVAL.into());
                }
                (linux.bytes(value, length)?, Back::Nothing)
            }
            Arg::OutBytes(length) => {
                let length = usize::from(length);
                let room = arguments[length].min(MOST_BYTES);
                raw[length] = room;
                if room == 0 || value == 0 {
                    raw[at] = 0;
                    continue;
                }
                (vec![0; room as usize], Back::Returned)
            }
            Arg::OutSized(_) | Arg::Size if value == 0 => continue,
            Arg::OutSized(size) => {
                let room: i32 = linux.memory.read_value(arguments[usize::from(size)])?;
                let room = usize::try_from(room).map_err(|_| Errno::INVAL)?;
                let room = room.min(MOST_BYTES as usize);
                (vec![0; room], Back::Sized(usize::from(size)))
            }
            Arg::Size => {
                let size: i32 = linux.memory.read_value(value)?;
                let size = size.min(MOST_BYTES as i32);
                (size.to_le_bytes().to_vec(), Back::Whole)
            }
        };
        buffers[at] = buffer;
        raw[at] = buffers[at].0.as_mut_ptr() as u64;
    }
    // SAFETY: each argument that is an address to the kernel is null or the buffer that its kind in the
    // table asks for, as long as the kernel is told; descriptors are the guest's.
    let result = unsafe { host::call(number, raw) }?;
    for at in 0..kinds.len() {
        let (bytes, back) = &buffers[at];
        let length = match back {
            Back::Nothing => continue,
            Back::Whole => bytes.len(),
            Back::Returned => bytes.len().min(result as usize),
            Back::Sized(size) => {
                let said = &buffers[*size].0;
                let said = said.as_slice().try_into().map_or(0, u32::from_le_bytes);
                bytes.len().min(said as usize)
            }
        };
        linux.memory.write(arguments[at], &bytes[..length])?;
    }
    Ok(result)
}

impl Linux {
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

    /// Checks what argument `at`, an empty path, stands for: nothing, or the descriptor in front of it.
    fn named(&self, kinds: &[Arg], at: usize, arguments: &Arguments) -> Result<(), Errno> {
        let directory = at
            .checked_sub(1)
            .filter(|&before| kinds[before] == Arg::Directory);
        let Some(directory) = directory.map(|before| arguments[before]) else {
            return Err(Errno::NOENT);
        };
        if directory as i32 == AT_FDCWD {
            return if self.world {
                Ok(())
            } else {
                Err(Errno::NOENT)
            };
        }
        if kinds[at] == Arg::PathToSee {
            return self.descriptor(directory).map(|_| ());
        }
        self.granted(directory)?;
        if self.world {
            Ok(())
        } else {
            Err(Errno::NOENT)
        }
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
        self.memory.read(at, &mut bytes)?;
        Ok(bytes)
    }
}
