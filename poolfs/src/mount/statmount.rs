//! Where a mount is, by its number that is never given twice: statmount(2), since Linux 6.8. No
//! library has the call yet, so its numbers are those of include/uapi/linux/mount.h.

use std::ffi::OsString;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// The call's number, the same on every architecture that Rust's Linux targets share it with.
const SYS_STATMOUNT: libc::c_long = 457;
/// Asks for the path of the mount point.
const STATMOUNT_MNT_POINT: u64 = 0x10;
/// What was answered, in `struct statmount`.
const MASK: Range<usize> = 8..16;
/// Where the path starts, counted from the strings.
const POINT: Range<usize> = 108..112;
/// Where the strings start.
const STRINGS: usize = 512;
/// Longest answer waited for: many times the longest path that can be passed to a call.
const MOST_BYTES: usize = 1 << 20;

/// `struct mnt_id_req`, in its first version.
#[repr(C)]
struct Request {
    size: u32,
    spare: u32,
    mount: u64,
    wanted: u64,
}

/// The path of a mount, its bytes as they are; `None` when it is nowhere that can be seen from
/// here.
pub(super) fn mount_point(mount: u64) -> io::Result<Option<PathBuf>> {
    let mut answer = vec![0; 4096];
    loop {
        match ask(mount, &mut answer) {
            Ok(()) => return Ok(point_in(&answer)),
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOENT) => return Ok(None),
                Some(libc::EOVERFLOW) if answer.len() < MOST_BYTES => {
                    answer.resize(answer.len() * 2, 0);
                }
                _ => return Err(error),
            },
        }
    }
}

fn ask(mount: u64, answer: &mut [u8]) -> io::Result<()> {
    let request = Request {
        size: size_of::<Request>() as u32,
        spare: 0,
        mount,
        wanted: STATMOUNT_MNT_POINT,
    };
    // SAFETY: the kernel reads `request`, whose size is in it, and writes at most as many bytes as
    // `answer` has; both are borrowed for as long as the call takes.
    let status = unsafe {
        libc::syscall(
            SYS_STATMOUNT,
            &raw const request,
            answer.as_mut_ptr(),
            answer.len(),
            0,
        )
    };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn point_in(answer: &[u8]) -> Option<PathBuf> {
    let mask = u64::from_ne_bytes(answer.get(MASK)?.try_into().ok()?);
    let start = u32::from_ne_bytes(answer.get(POINT)?.try_into().ok()?);
    let path = answer.get(STRINGS + start as usize..)?;
    let length = path.iter().position(|byte| *byte == 0)?;
    let told = mask & STATMOUNT_MNT_POINT != 0 && length != 0;
    told.then(|| OsString::from_vec(path[..length].to_vec()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_mount_has_the_number_of_another_kind() {
        // Numbers start at 2^31, so that they are not taken for those of /proc/self/mountinfo.
        match mount_point(1) {
            Ok(found) => assert_eq!(found, None),
            // Before Linux 6.8 (and in sandboxes).
            Err(error) => assert!(
                [libc::ENOSYS, libc::EPERM, libc::EINVAL]
                    .map(Some)
                    .contains(&error.raw_os_error())
            ),
        }
    }

    #[test]
    fn an_answer_without_a_path_is_none() {
        let mut answer = vec![0; 1024];
        answer[STRINGS..][..5].copy_from_slice(b"/pool");
        assert_eq!(point_in(&answer), None);
        answer[MASK.start] = STATMOUNT_MNT_POINT as u8;
        assert_eq!(point_in(&answer), Some("/pool".into()));
        answer[POINT.start] = 1;
        assert_eq!(point_in(&answer), Some("pool".into()));
        answer[POINT.start] = 5;
        assert_eq!(point_in(&answer), None);
        answer[POINT].fill(0xff);
        assert_eq!(point_in(&answer), None);
        assert_eq!(point_in(&answer[..100]), None);
    }
}
