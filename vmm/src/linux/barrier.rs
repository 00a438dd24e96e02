//! `membarrier`: one call that is a barrier of memory on all processors.

use rustix::io::Errno;

use super::{Arguments, Linux, Served};

/// Commands (`linux/membarrier.h`). Those for restartable sequences are not among them, as those are not.
const GLOBAL: u32 = 1;
const GLOBAL_EXPEDITED: u32 = 1 << 1;
const REGISTER_GLOBAL: u32 = 1 << 2;
const PRIVATE: u32 = 1 << 3;
const REGISTER_PRIVATE: u32 = 1 << 4;
const SYNC_CORE: u32 = 1 << 5;
const REGISTER_SYNC_CORE: u32 = 1 << 6;
const REGISTRATIONS: u32 = 1 << 9;
const ALL: u32 = GLOBAL
    | GLOBAL_EXPEDITED
    | REGISTER_GLOBAL
    | PRIVATE
    | REGISTER_PRIVATE
    | SYNC_CORE
    | REGISTER_SYNC_CORE
    | REGISTRATIONS;

/// What a guest has registered for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Registered {
    /// The registrations that were made, as commands.
    made: u32,
}

impl Registered {
    /// What the kernel says of them: one for `SYNC_CORE` is one for the plain command, too, which is not served by that.
    fn told(self) -> u32 {
        if self.made & REGISTER_SYNC_CORE == 0 {
            self.made
        } else {
            self.made | REGISTER_PRIVATE
        }
    }

    /// What `command` returns, and whether all processors are to have a barrier first.
    fn serve(&mut self, command: u32) -> Result<(u64, bool), Errno> {
        let barrier = |registered: u32| match self.made & registered {
            0 => Err(Errno::PERM),
            _ => Ok((0, true)),
        };
        match command {
            0 => Ok((ALL.into(), false)),
            GLOBAL | GLOBAL_EXPEDITED => Ok((0, true)),
            PRIVATE => barrier(REGISTER_PRIVATE),
            SYNC_CORE => barrier(REGISTER_SYNC_CORE),
            REGISTER_GLOBAL | REGISTER_PRIVATE | REGISTER_SYNC_CORE => {
                self.made |= command;
                Ok((0, false))
            }
            REGISTRATIONS => Ok((self.told().into(), false)),
            _ => Err(Errno::INVAL),
        }
    }
}

/// `membarrier`: all processors are outside the guest for a moment, which is a barrier.
pub(super) fn membarrier(linux: &mut Linux, [command, flags, ..]: Arguments) -> Served {
    if flags as u32 != 0 {
        return Err(Errno::INVAL.into());
    }
    let (result, barrier) = linux.registered.serve(command as u32)?;
    if barrier {
        linux.memory.stop_others();
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_private_takes_its_own_registration() {
        let mut registered = Registered::default();
        assert_eq!(registered.serve(PRIVATE), Err(Errno::PERM));
        assert_eq!(registered.serve(REGISTER_SYNC_CORE), Ok((0, false)));
        assert_eq!(registered.serve(PRIVATE), Err(Errno::PERM));
        assert_eq!(registered.serve(SYNC_CORE), Ok((0, true)));
        let told = (REGISTER_SYNC_CORE | REGISTER_PRIVATE).into();
        assert_eq!(registered.serve(REGISTRATIONS), Ok((told, false)));
        assert_eq!(registered.serve(REGISTER_PRIVATE), Ok((0, false)));
        assert_eq!(registered.serve(PRIVATE), Ok((0, true)));
        assert_eq!(registered.serve(PRIVATE | SYNC_CORE), Err(Errno::INVAL));
        assert_eq!(registered.serve(1 << 7), Err(Errno::INVAL));
    }
}
