//! A program's memory: as a description gives it, as its segments give it, and as Linux gives it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use pool_image::describe::DescribedImage;
use pool_image::elf::INDEPENDENT_BASE;

pub const PAGE: u64 = 4096;

/// Pages by address: access and bytes.
pub type Memory = BTreeMap<u64, (String, Vec<u8>)>;

/// Zero ranges are taken up to this many pages, for files that ask for terabytes.
const MOST_ZERO_PAGES: u64 = 4096;

/// What a loader that follows the description maps.
pub fn described(image: &DescribedImage<'_>) -> Memory {
    let mut memory = Memory::new();
    for range in &image.description.ranges {
        let bytes = range.source.map(|source| {
            let object = image.object(&source.object).unwrap();
            object.content.bytes()[source.offset as usize..][..range.length as usize].to_vec()
        });
        let pages = range.length / PAGE;
        let most = bytes.as_ref().map_or(MOST_ZERO_PAGES, |_| pages);
        for page in 0..pages.min(most) {
            let bytes = match &bytes {
                Some(bytes) => bytes[(page * PAGE) as usize..][..PAGE as usize].to_vec(),
                None => vec![0; PAGE as usize],
            };
            let address = range.address.0 + page * PAGE;
            let before = memory.insert(address, (range.protection.to_string(), bytes));
            assert!(before.is_none(), "{address:#x} is in two ranges");
        }
    }
    memory
}

/// What the segments say, byte by byte.
pub fn interpreted(file: &[u8]) -> Memory {
    let word = |at: u64, size: u64| {
        let mut bytes = [0; 8];
        bytes[..size as usize].copy_from_slice(&file[at as usize..(at + size) as usize]);
        u64::from_le_bytes(bytes)
    };
    let bias = if word(16, 2) == 3 {
        INDEPENDENT_BASE
    } else {
        0
    };
    let loads: Vec<_> = (0..word(56, 2))
        .map(|at| word(32, 8) + 56 * at)
        .filter(|at| word(*at, 4) == 1 && word(at + 40, 8) > 0)
        .map(|at| {
            let flags = word(at + 4, 4);
            let address = word(at + 16, 8) + bias;
            (
                flags,
                word(at + 8, 8),
                address,
                word(at + 32, 8),
                word(at + 40, 8),
            )
        })
        .collect();
    let mappable = loads
        .iter()
        .all(|(_, offset, address, size, _)| *size == 0 || offset % PAGE == address % PAGE);
    let mut memory = Memory::new();
    for (flags, offset, address, file_size, memory_size) in loads {
        let access = |flags: u64| {
            let letter = |bit, letter| if flags & bit != 0 { letter } else { '-' };
            [letter(4, 'r'), letter(2, 'w'), letter(1, 'x')]
                .iter()
                .collect::<String>()
        };
        let zero_access = access(6 | (flags & 1));
        let file_end = address + file_size;
        let end = address + memory_size;
        let mut page = address / PAGE * PAGE;
        let mut zero_pages = 0;
        while page < end {
            let from_file = file_size > 0 && page < file_end;
            let mut bytes = vec![0; PAGE as usize];
            let mut own = if from_file {
                access(flags)
            } else {
                zero_access.clone()
            };
            // A page that another segment already has keeps that one's bytes below this one,
            // unless Linux would map a page of the file over it.
            if let Some((other, below)) = memory.get(&page)
                && (!from_file || !mappable)
            {
                let kept = address.saturating_sub(page) as usize;
                bytes[..kept].copy_from_slice(&below[..kept]);
                own = own
                    .chars()
                    .zip(other.chars())
                    .map(|(a, b)| if a == '-' { b } else { a })
                    .collect();
            }
            for at in page..page + PAGE {
                let in_segment = (address..file_end).contains(&at);
                let cleared = flags & 2 != 0 && memory_size > file_size && at >= file_end;
                if !from_file || (!mappable && !in_segment) || cleared {
                    continue;
                }
                let in_file = (offset + at).checked_sub(address);
                let byte = in_file.and_then(|at| file.get(at as usize));
                bytes[(at - page) as usize] = byte.copied().unwrap_or(0);
            }
            memory.insert(page, (own, bytes));
            page += PAGE;
            zero_pages += u64::from(!from_file);
            if zero_pages == MOST_ZERO_PAGES {
                break;
            }
        }
    }
    memory
}

/// What Linux mapped for the program at `path`, stopped before its first instruction. Addresses
/// are moved so that the lowest is `lowest`. `None` when Linux refuses the program.
pub fn executed(path: &Path, lowest: u64) -> Option<Memory> {
    let child = stopped(path)?;
    let process = format!("/proc/{}", child.0.id());
    let maps = fs::read_to_string(format!("{process}/maps")).unwrap();
    let bytes = File::open(format!("{process}/mem")).unwrap();
    let mut memory = Memory::new();
    let mut moved = None;
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (range, access) = (fields.next().unwrap(), fields.next().unwrap());
        let name = fields.nth(3).unwrap_or_default();
        if ["[stack]", "[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]"].contains(&name) {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let start = u64::from_str_radix(start, 16).unwrap();
        let end = u64::from_str_radix(end, 16).unwrap();
        let moved = *moved.get_or_insert(lowest.wrapping_sub(start));
        for page in (start..end).step_by(PAGE as usize) {
            let mut content = vec![0; PAGE as usize];
            bytes.read_exact_at(&mut content, page).unwrap();
            let access = access[..3].to_owned();
            memory.insert(page.wrapping_add(moved), (access, content));
        }
    }
    Some(memory)
}

/// Ends the child, however the test ends.
struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn stopped(path: &Path) -> Option<Stopped> {
    let mut command = Command::new(path);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            // SAFETY: PTRACE_TRACEME takes no pointers; it asks to be stopped at exec.
            match libc::ptrace(libc::PTRACE_TRACEME) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    let child = Stopped(command.spawn().ok()?);
    let mut status = 0;
    // SAFETY: the process is our child, not yet waited for; `status` outlives the call.
    let waited = unsafe { libc::waitpid(child.0.id() as i32, &raw mut status, 0) };
    assert_eq!(waited, child.0.id() as i32);
    // Linux kills a program that it gave up on after the point of no return.
    (libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGTRAP).then_some(child)
}

/// Compares page by page, so that a difference names its address.
pub fn assert_same(what: &str, left: &Memory, right: &Memory) {
    let one_sided = left.keys().find(|address| !right.contains_key(address));
    let one_sided = one_sided.or_else(|| right.keys().find(|address| !left.contains_key(address)));
    assert!(
        one_sided.is_none(),
        "{what}: {:#x} is mapped in one only",
        one_sided.unwrap()
    );
    for (address, (access, bytes)) in left {
        let (other_access, other) = &right[address];
        assert_eq!(access, other_access, "{what}: access at {address:#x}");
        let differs = bytes.iter().zip(other).position(|(a, b)| a != b);
        assert_eq!(differs, None, "{what}: byte of page {address:#x}");
    }
}
