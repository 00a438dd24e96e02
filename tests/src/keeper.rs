//! What must be undone whatever becomes of the process that did it.
//!
//! A value that is dropped undoes nothing when its process is killed, as a test's is that takes too long. So a
//! shell beside it waits for the end of its input, which comes either way.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result};

/// Takes a filesystem off its mount point, from under those who use it where it must, and succeeds when nothing is
/// mounted there.
const UNMOUNT: &str = "umount -- \"$1\" 2>/dev/null || umount -l -- \"$1\" 2>/dev/null \
                       || ! findmnt --mountpoint \"$1\" >/dev/null";

/// Undoes something when it is dropped, and when this process ends, however it does.
#[derive(Debug)]
pub struct Keeper {
    /// It is in a session of its own and deaf to what ends others, so that an interrupt from the terminal or the
    /// end of a group of processes does not reach it.
    shell: Child,
    input: Option<ChildStdin>,
    undone: String,
}

impl Keeper {
    /// Runs `script` of sh(1) in the end, with `arguments` as `$1` and so on. `undone` says what is still there
    /// when the script fails. Make the keeper before what it is to undo.
    pub fn new(undone: &str, script: &str, arguments: &[&OsStr]) -> Result<Self> {
        let mut shell = Command::new("setsid")
            .args(["sh", "-c"])
            .arg(format!("trap '' INT TERM HUP; cat >/dev/null; {script}"))
            .arg("keeper")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("starting setsid sh, in case that {undone}"))?;
        let input = shell.stdin.take();
        Ok(Self {
            shell,
            input,
            undone: undone.to_owned(),
        })
    }

    /// Unmounts what will be mounted on a directory; it may be unmounted before.
    pub fn unmount(mount_point: &Path) -> Result<Self> {
        let undone = format!("{} is still mounted", mount_point.display());
        Self::new(&undone, UNMOUNT, &[mount_point.as_os_str()])
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.input = None;
        if !self.shell.wait().is_ok_and(|status| status.success()) {
            eprintln!("{}", self.undone);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::wait;

    /// Set for the process that is to be killed.
    const DIRECTORY: &str = "KEEPER_TEST_DIRECTORY";

    fn keep(directory: &Path) -> Keeper {
        let undone = directory.join("undone");
        Keeper::new("it is not undone", ": >\"$1\"", &[undone.as_os_str()]).unwrap()
    }

    #[test]
    fn what_a_dropped_value_kept_is_undone_by_then() {
        let directory = tempfile::tempdir().unwrap();
        let keeper = keep(directory.path());
        assert!(!directory.path().join("undone").exists());
        drop(keeper);
        assert!(directory.path().join("undone").exists());
    }

    #[test]
    fn what_a_killed_process_kept_is_undone() {
        if let Some(directory) = std::env::var_os(DIRECTORY) {
            let _keeper = keep(Path::new(&directory));
            fs::write(Path::new(&directory).join("ready"), "").unwrap();
            loop {
                thread::sleep(Duration::from_secs(60));
            }
        }
        let directory = tempfile::tempdir().unwrap();
        let mut killed = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "keeper::tests::what_a_killed_process_kept_is_undone",
            ])
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait::until("it keeps", || directory.path().join("ready").exists());
        assert!(!directory.path().join("undone").exists());
        killed.kill().unwrap();
        killed.wait().unwrap();
        wait::until("it is undone", || directory.path().join("undone").exists());
    }

    #[test]
    fn a_mount_point_on_which_nothing_is_mounted_needs_no_undoing() {
        let directory = tempfile::tempdir().unwrap();
        let mut keeper = Keeper::unmount(directory.path()).unwrap();
        keeper.input = None;
        assert!(keeper.shell.wait().unwrap().success());
    }
}
