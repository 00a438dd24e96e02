//! What KVM can show a guest of the processor, kept from one start to the next.
//!
//! KVM_GET_SUPPORTED_CPUID executes CPUID for some 75 leaves. On a host that is a guest itself each is an exit to its own
//! hypervisor, and all of them 270 us: almost half of what the least virtual machine takes to start
//! (`bench/floor.c`). The answer stays the same until the host boots, KVM is loaded anew or the host moves to
//! another processor, so there the first start writes it down for those that follow. Where CPUID costs nothing it is asked for each
//! time.

use std::arch::x86_64::__cpuid_count;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;
use rustix::process::Uid;

use super::KvmError;

/// CPUID of leaf 1, ECX: this host is a guest (AMD APM volume 3, appendix E; Intel never sets it).
const HYPERVISOR: u32 = 1 << 31;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const BOOT_ID_BYTES: usize = 36;
/// It is made each time that KVM is loaded, and gets a number then that no other file has had since the boot.
const DEVICE: &str = "/sys/devices/virtual/misc/kvm";
/// Begins a file of this form.
const MAGIC: &[u8; 16] = b"poolvmm cpuid 1\n";
/// Leaves that tell a processor and its features from another's: of each what does not depend on which of them is asked.
const TOLD_BY: usize = 6;
const KEY_BYTES: usize = MAGIC.len() + BOOT_ID_BYTES + 8 + 4 * TOLD_BY;
/// Words of an entry: function, index, flags and four registers.
const WORDS: usize = 7;
const ENTRY_BYTES: usize = 4 * WORDS;
const MOST_BYTES: u64 = (KEY_BYTES + KVM_MAX_CPUID_ENTRIES * ENTRY_BYTES) as u64;

/// What processor features guests may be shown.
pub(super) fn cpuid(kvm: &Kvm) -> Result<CpuId, KvmError> {
    let user = rustix::process::geteuid();
    let kept = directory(user).and_then(|directory| Some((Key::of_this_host()?, directory)));
    if let Some((key, directory)) = &kept
        && let Some(cpuid) = read(directory, key, user)
    {
        return Ok(cpuid);
    }
    let cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(|error| KvmError::call("reading the supported CPUID", error))?;
    if let Some((key, directory)) = &kept {
        // Without it the next start takes as long as this one, and is right as well.
        let _ = write(directory, key, &cpuid);
    }
    Ok(cpuid)
}

/// What an answer holds for. A file begins with it.
#[derive(Debug, PartialEq, Eq)]
struct Key([u8; KEY_BYTES]);

impl Key {
    /// None where CPUID costs nothing, or where it cannot be told how long an answer holds.
    fn of_this_host() -> Option<Self> {
        let features = __cpuid_count(1, 0);
        if features.ecx & HYPERVISOR == 0 {
            return None;
        }
        let extended = __cpuid_count(7, 0);
        let boot = first_bytes(&File::open(BOOT_ID).ok()?, BOOT_ID_BYTES).ok()?;
        let device = fs::metadata(DEVICE).ok()?.ino();
        // EBX of leaf 1 has the number of the processor that was asked.
        let leaves: [u32; TOLD_BY] = [
            features.eax,
            features.ecx,
            features.edx,
            extended.ebx,
            extended.ecx,
            extended.edx,
        ];
        let leaves = leaves.map(u32::to_le_bytes);
        let parts = [
            &MAGIC[..],
            &boot,
            &device.to_le_bytes(),
            leaves.as_flattened(),
        ];
        Some(Self(parts.concat().try_into().ok()?))
    }
}

/// Where answers are kept: what is there was written by this user, and goes with a boot. Root has one place whatever the
/// environment says, since another user's directory may lead anywhere.
fn directory(user: Uid) -> Option<PathBuf> {
    let parent = if user.is_root() {
        PathBuf::from("/run")
    } else {
        PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?)
    };
    parent.is_absolute().then(|| parent.join("poolvmm"))
}

/// The answer that is kept for `key`, if it is `user` who has kept it.
fn read(directory: &Path, key: &Key, user: Uid) -> Option<CpuId> {
    let file = OpenOptions::new()
        .read(true)
        // A FIFO would have this wait for who writes it.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(directory.join("cpuid"))
        .ok()?;
    let metadata = file.metadata().ok()?;
    let is_own = metadata.uid() == user.as_raw();
    if !metadata.is_file() || !is_own || metadata.mode() & 0o022 != 0 || metadata.len() > MOST_BYTES
    {
        return None;
    }
    let bytes = first_bytes(&file, metadata.len() as usize).ok()?;
    parse(&bytes, key)
}

/// Keeps `cpuid` for `key`.
fn write(directory: &Path, key: &Key, cpuid: &CpuId) -> io::Result<()> {
    match DirBuilder::new().mode(0o755).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // Of this process alone until it is whole.
    let new = directory.join(format!("cpuid.{}", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&new)
        .and_then(|mut file| file.write_all(&render(key, cpuid)))
        .and_then(|()| fs::rename(&new, directory.join("cpuid")));
    if written.is_err() {
        // One that was killed while it wrote may have had this number.
        let _ = fs::remove_file(&new);
    }
    written
}

fn render(key: &Key, cpuid: &CpuId) -> Vec<u8> {
    let mut bytes = key.0.to_vec();
    for entry in cpuid.as_slice() {
        let words: [u32; WORDS] = [
            entry.function,
            entry.index,
            entry.flags,
            entry.eax,
            entry.ebx,
            entry.ecx,
            entry.edx,
        ];
        bytes.extend_from_slice(words.map(u32::to_le_bytes).as_flattened());
    }
    bytes
}

fn parse(bytes: &[u8], key: &Key) -> Option<CpuId> {
    let (entries, rest) = bytes.strip_prefix(&key.0)?.as_chunks::<ENTRY_BYTES>();
    if !rest.is_empty() || entries.is_empty() {
        return None;
    }
    let entry = |bytes: &[u8; ENTRY_BYTES]| {
        let (words, _) = bytes.as_chunks::<4>();
        let word = |at: usize| words.get(at).map_or(0, |&word| u32::from_le_bytes(word));
        kvm_cpuid_entry2 {
            function: word(0),
            index: word(1),
            flags: word(2),
            eax: word(3),
            ebx: word(4),
            ecx: word(5),
            edx: word(6),
            ..Default::default()
        }
    };
    let entries: Vec<_> = entries.iter().map(entry).collect();
    // Refuses more than there may be.
    CpuId::from_entries(&entries).ok()
}

fn first_bytes(file: &File, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; most];
    let mut read = 0;
    while read < most {
        match { file }.read(&mut bytes[read..])? {
            0 => break,
            more => read += more,
        }
    }
    bytes.truncate(read);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn key(byte: u8) -> Key {
        Key([byte; KEY_BYTES])
    }

    fn leaves(count: usize) -> CpuId {
        let entry = |number: u32| kvm_cpuid_entry2 {
            function: number,
            index: number + 1,
            flags: number + 2,
            eax: !number,
            ebx: number << 8,
            ecx: number << 16,
            edx: number << 24,
            ..Default::default()
        };
        let entries: Vec<_> = (0..count as u32).map(entry).collect();
        CpuId::from_entries(&entries).unwrap()
    }

    fn read(directory: &Path, key: &Key) -> Option<CpuId> {
        super::read(directory, key, rustix::process::geteuid())
    }

    fn same(found: Option<CpuId>, right: &CpuId) -> bool {
        found.is_some_and(|found| found.as_slice() == right.as_slice())
    }

    #[test]
    fn what_was_kept_is_found_for_its_key_alone() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("poolvmm");
        assert!(read(&place, &key(1)).is_none());
        for count in [1, 75, KVM_MAX_CPUID_ENTRIES] {
            write(&place, &key(1), &leaves(count)).unwrap();
            assert!(same(read(&place, &key(1)), &leaves(count)));
            assert!(read(&place, &key(2)).is_none());
        }
        write(&place, &key(2), &leaves(3)).unwrap();
        assert!(same(read(&place, &key(2)), &leaves(3)));
        let files = fs::read_dir(&place).unwrap().count();
        assert_eq!(files, 1);
    }

    #[test]
    fn what_does_not_say_so_is_no_answer() {
        let whole = render(&key(1), &leaves(3));
        assert!(parse(&whole, &key(1)).is_some());
        for length in 0..whole.len() {
            let is_answer = length > KEY_BYTES && (length - KEY_BYTES).is_multiple_of(ENTRY_BYTES);
            assert_eq!(parse(&whole[..length], &key(1)).is_some(), is_answer);
        }
        let many = render(&key(1), &leaves(1));
        let more = [&many[..], &vec![0; KVM_MAX_CPUID_ENTRIES * ENTRY_BYTES]].concat();
        assert!(parse(&more, &key(1)).is_none());
    }

    #[test]
    fn what_others_may_have_written_is_no_answer() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path();
        let file = place.join("cpuid");
        write(place, &key(1), &leaves(3)).unwrap();
        for mode in [0o664, 0o646, 0o666] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            assert!(read(place, &key(1)).is_none());
        }
        fs::rename(&file, place.join("other")).unwrap();
        fs::set_permissions(place.join("other"), fs::Permissions::from_mode(0o644)).unwrap();
        symlink("other", &file).unwrap();
        assert!(read(place, &key(1)).is_none());
        fs::remove_file(&file).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &file, 0o644.into()).unwrap();
        assert!(read(place, &key(1)).is_none());
        // And it is replaced.
        write(place, &key(1), &leaves(2)).unwrap();
        assert!(same(read(place, &key(1)), &leaves(2)));
    }

    #[test]
    fn what_was_killed_while_it_wrote_is_in_nobodys_way_for_long() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path();
        let left = place.join(format!("cpuid.{}", std::process::id()));
        fs::write(&left, "half").unwrap();
        write(place, &key(1), &leaves(1)).unwrap_err();
        assert!(!left.exists());
        write(place, &key(1), &leaves(1)).unwrap();
        assert!(same(read(place, &key(1)), &leaves(1)));
    }
}
