//! Guests that come and go, in every way in which a guest ends: nothing of them stays behind.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};
use pool_tests::guests;
use pool_tests::host::Host;
use pool_tests::requirements::needs;
use pool_tests::run::{Backing, command};
use pool_tests::wait;
use rustix::process::{Pid, Signal, kill_process, set_child_subreaper};

const IMAGE: &str = "image/hello:v1";
/// Guests at a time.
const AT_ONCE: usize = 4;
/// What the daemon may grow by between two looks: its allocator's arenas settle.
const GROWTH: u64 = 8 << 20;

/// How a guest ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// By itself.
    Done,
    /// While it waits.
    Signal(Signal),
    /// Before it may have begun.
    Early,
}

const ENDS: [End; 4] = [
    End::Done,
    End::Signal(Signal::TERM),
    End::Signal(Signal::KILL),
    End::Early,
];

/// Guests in all: a few in `make test`, 10 000 in `make soak`.
fn guests_in_all() -> usize {
    std::env::var("POOL_SOAK_ROUNDS").map_or(64, |rounds| {
        50 * rounds
            .parse::<usize>()
            .expect("POOL_SOAK_ROUNDS is a number")
    })
}

/// What a daemon holds.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    threads: usize,
}

/// The daemon that serves the mount.
struct Daemon {
    process: String,
}

impl Daemon {
    fn find(host: &Host) -> Result<Self> {
        let mount_point = host.mount_point();
        for entry in fs::read_dir("/proc")?.flatten() {
            let process = entry.path();
            let Ok(line) = fs::read(process.join("cmdline")) else {
                continue;
            };
            let mut words = line.split(|byte| *byte == 0);
            let is_poolfs = words.next().is_some_and(|name| name.ends_with(b"poolfs"));
            let ours = mount_point.as_os_str().as_encoded_bytes();
            if is_poolfs && words.any(|word| word == ours) {
                let process = process.display().to_string();
                return Ok(Self { process });
            }
        }
        anyhow::bail!("no poolfs serves {}", mount_point.display())
    }

    fn held(&self) -> Held {
        let count = |what: &str| {
            let path = format!("{}/{what}", self.process);
            fs::read_dir(path).map_or(0, Iterator::count)
        };
        Held {
            descriptors: count("fd"),
            threads: count("task"),
        }
    }

    /// Memory of its own, in bytes.
    fn memory(&self) -> Result<u64> {
        let path = format!("{}/status", self.process);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        Ok(kib.with_context(|| format!("no RssAnon in {path}"))? * 1024)
    }
}

/// One guest, from its start to its end.
fn one(host: &Host, files: &Path, number: usize) -> Result<()> {
    let end = ENDS[number % ENDS.len()];
    let platform = ["kvm", "process"][number / ENDS.len() % 2];
    let backing = Backing::ALL[number / ENDS.len() / 2 % 2];
    let mut command = command(host, IMAGE, backing, platform);
    command
        .args(["--dir", &format!("{}:/files", files.display())])
        .args(["--net", "host"])
        .env("TMPDIR", files)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if matches!(end, End::Signal(_)) {
        command.args(["--", "--hold"]);
    }
    let mut guest = command.spawn().context("starting poolvmm")?;
    let status = match end {
        End::Done => guest.wait()?.code(),
        End::Early => {
            guest.kill()?;
            guest.wait()?;
            None
        }
        End::Signal(signal) => {
            wait_until_it_holds(&mut guest)?;
            kill_process(Pid::from_child(&guest), signal)?;
            guest.wait()?;
            None
        }
    };
    let ended_well = !matches!(end, End::Done) || status == Some(0);
    ensure!(
        ended_well,
        "guest {number} ({platform}) ended with {status:?}"
    );
    Ok(())
}

fn wait_until_it_holds(guest: &mut Child) -> Result<()> {
    use std::io::{BufRead, BufReader};
    let output = guest.stdout.take().context("no standard output")?;
    let mut lines = BufReader::new(output).lines();
    ensure!(
        lines.any(|line| line.is_ok_and(|line| line == "holding")),
        "a guest ended instead of holding"
    );
    Ok(())
}

fn churn(host: &Host, files: &Path, numbers: std::ops::Range<usize>) -> Result<()> {
    thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE)
            .map(|worker| {
                let mine = numbers.clone().skip(worker).step_by(AT_ONCE);
                scope.spawn(move || {
                    mine.into_iter()
                        .try_for_each(|number| one(host, files, number))
                })
            })
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().expect("a worker ran to its end"))
    })
}

fn children() -> String {
    let tasks = fs::read_dir("/proc/self/task").expect("this process has tasks");
    tasks
        .flatten()
        .map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default())
        .collect()
}

#[test]
fn guests_that_come_and_go_leave_nothing_behind() -> Result<()> {
    if !needs(&["root", "kvm", "fuse"]) {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let files = directory.path().join("files");
    fs::create_dir(&files)?;
    let host = Host::start(&directory.path().join("pool"), &[])?;
    // Compiled once for all runs of this test.
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join("churn-guests");
    guests::push(&host, &built, "hello")?;
    let daemon = Daemon::find(&host)?;
    // Processes of a guest whose VMM was killed become this one's, so that none can hide.
    let others = children();
    set_child_subreaper(Some(rustix::process::getpid()))?;

    let all = guests_in_all();
    let warm = all / 4;
    churn(&host, &files, 0..warm)?;
    let first = settled(&daemon);
    let memory = daemon.memory()?;
    churn(&host, &files, warm..all)?;
    wait::until("no process of a guest is left", || {
        while let Ok(Some(_)) = rustix::process::waitpid(None, rustix::process::WaitOptions::NOHANG)
        {
        }
        children() == others
    });
    wait::until(format!("the daemon holds what it held, {first:?}"), || {
        daemon.held() == first
    });
    let grown = daemon.memory()?.saturating_sub(memory);
    ensure!(grown < GROWTH, "poolfs has grown by {grown} bytes");
    ensure!(
        fs::read_dir(&files)?.next().is_none(),
        "temporary files stay: {:?}",
        fs::read_dir(&files)?.collect::<Vec<_>>()
    );
    // No lease is left: what nobody names any more can all go.
    host.pool(&["rm", IMAGE])?;
    wait::until("everything is collected", || {
        host.pool(&["gc", "--grace", "0"]).is_ok()
            && host.segment_disk_bytes().is_ok_and(|bytes| bytes == 0)
    });
    Ok(())
}

/// What the daemon holds, once that does not change.
fn settled(daemon: &Daemon) -> Held {
    wait::until_some("the daemon comes to rest", || {
        let before = daemon.held();
        thread::sleep(std::time::Duration::from_millis(200));
        (daemon.held() == before).then_some(before)
    })
}
