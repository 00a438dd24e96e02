//! Devices without anything behind them, for a guest without a file system of its own.

use std::fs::{File, OpenOptions};

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    Null,
    Zero,
    Full,
    /// `random` is the same.
    Random,
}

/// All of them, with names in `/dev` and minor numbers (`Documentation/admin-guide/devices.txt`).
const ALL: [(&str, Device, u32); 5] = [
    ("null", Device::Null, 3),
    ("zero", Device::Zero, 5),
    ("full", Device::Full, 7),
    ("urandom", Device::Random, 9),
    ("random", Device::Random, 9),
];

impl Device {
    /// The one of this name in `/dev`.
    pub(super) fn named(name: &str) -> Option<Self> {
        let found = ALL.iter().find(|(known, ..)| *known == name);
        found.map(|&(_, device, _)| device)
    }

    /// Its number, as `stat` has it.
    pub(super) fn number(self) -> u64 {
        /// Of memory devices.
        const MAJOR: u32 = 1;
        let found = ALL.iter().find(|(_, device, _)| *device == self);
        found.map_or(0, |&(.., minor)| rustix::fs::makedev(MAJOR, minor))
    }

    /// Those that there are, open to be read and written.
    pub(crate) fn open_all() -> Vec<(Self, File)> {
        // Without the last, which is another's like.
        let open = |&(name, device, _): &(&str, Self, u32)| {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(format!("/dev/{name}"));
            Some((device, file.ok()?))
        };
        ALL[..ALL.len() - 1].iter().filter_map(open).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    use super::*;

    #[test]
    fn devices_are_what_their_numbers_say() {
        for (device, file) in Device::open_all() {
            let found = file.metadata().unwrap();
            assert!(found.file_type().is_char_device());
            assert_eq!(found.rdev(), device.number(), "{device:?}");
        }
        assert_eq!(Device::named("random"), Some(Device::Random));
        assert_eq!(Device::named("mem"), None);
    }
}
