//! The kernel's same-page merging, set for a measurement and put back whatever happens
//! (Documentation/admin-guide/mm/ksm.rst).

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pool_tests::keeper::Keeper;

const SETTINGS: &str = "/sys/kernel/mm/ksm";
/// `run`: stop, and part what was merged.
const UNMERGE: &str = "2";

/// How hard the scanner works.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Pages that it looks at each time it wakes.
    pub(crate) pages: u32,
    /// Milliseconds that it sleeps between.
    pub(crate) sleep: u32,
}

/// The scanner at work. Dropping the value parts all pages and puts the settings back as they were; so does
/// the end of this process, however it comes.
#[derive(Debug)]
pub(crate) struct Scanner {
    _restored: Keeper,
    before: Duration,
}

impl Scanner {
    /// Starts it; what runs already is left alone and refused.
    pub(crate) fn start(pace: Pace) -> Result<Self> {
        let settings = Path::new(SETTINGS);
        let read = |name: &str| -> Result<String> {
            let path = settings.join(name);
            let text = fs::read_to_string(&path).with_context(|| {
                format!("reading {} (does the kernel have KSM?)", path.display())
            })?;
            Ok(text.trim().to_owned())
        };
        let run = read("run")?;
        ensure!(
            run != "1",
            "KSM already scans on this host, and its pages would count: stop it first (echo 2 >{SETTINGS}/run)"
        );
        let (pages, sleep) = (read("pages_to_scan")?, read("sleep_millisecs")?);
        let restored = Keeper::new(
            &format!("KSM's settings were not put back: look at {SETTINGS}"),
            &format!(
                "cd {SETTINGS} && echo {UNMERGE} >run; \
                 echo {pages} >pages_to_scan; echo {sleep} >sleep_millisecs; echo {run} >run"
            ),
            &[],
        )?;
        let scanner = Self {
            _restored: restored,
            before: processor_time()?,
        };
        for (name, value) in [
            ("pages_to_scan", pace.pages.to_string()),
            ("sleep_millisecs", pace.sleep.to_string()),
            ("run", "1".to_owned()),
        ] {
            let path = settings.join(name);
            fs::write(&path, value).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(scanner)
    }

    /// Processor time that the scanner has taken since it was started.
    pub(crate) fn processor_time(&self) -> Result<Duration> {
        Ok(processor_time()?.saturating_sub(self.before))
    }
}

/// Lets the kernel merge all memory of programs that this process starts from now on, or no longer
/// (`PR_SET_MEMORY_MERGE`, which exec keeps).
pub(crate) fn set_mergeable(mergeable: bool) -> Result<()> {
    // SAFETY: this call takes a number and gives no pointer; merging does not change what memory holds.
    let status = unsafe {
        libc::prctl(
            libc::PR_SET_MEMORY_MERGE,
            libc::c_ulong::from(mergeable),
            0_u64,
            0_u64,
            0_u64,
        )
    };
    if status != 0 {
        return Err(io::Error::last_os_error())
            .context("asking for merged memory (PR_SET_MEMORY_MERGE: Linux 6.4 or later)");
    }
    Ok(())
}

/// Processor time of the kernel's thread since the host's start (proc(5), `/proc/PID/stat`).
fn processor_time() -> Result<Duration> {
    for entry in fs::read_dir("/proc").context("reading /proc")?.flatten() {
        let path = entry.path();
        if !fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim_end() == "ksmd") {
            continue;
        }
        let stat = fs::read_to_string(path.join("stat")).context("reading ksmd's times")?;
        return ticks(&stat)
            .map(|ticks| {
                Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
            })
            .with_context(|| format!("no times in {}: {stat}", path.display()));
    }
    bail!("the kernel has no ksmd")
}

/// `utime` and `stime`, the 14th and 15th field, together. The second field is a name in parentheses.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut number = || fields.next()?.parse::<u64>().ok();
    Some(number()? + number()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "37 (k) s md) S 2 0 0 0 -1 2129984 0 0 0 0 5 70 0 0 25 5 1";
        assert_eq!(ticks(stat), Some(75));
        assert_eq!(ticks("37 (ksmd) S 2"), None);
    }
}
