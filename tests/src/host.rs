//! A pool of its own to measure: a store, a poolsvc and a mount, gone when the value is dropped.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::keeper::Keeper;
use crate::wait::PATIENCE;

/// A running pool.
#[derive(Debug)]
pub struct Host {
    binaries: PathBuf,
    directory: PathBuf,
    service: Child,
    server: String,
    mounted: Option<Keeper>,
}

impl Host {
    /// Starts a pool in `directory`, which is emptied first; `options` go to poolsvc.
    pub fn start(directory: &Path, options: &[&str]) -> Result<Self> {
        if directory.exists() {
            fs::remove_dir_all(directory)
                .with_context(|| format!("emptying {}", directory.display()))?;
        }
        fs::create_dir_all(directory.join("mount"))?;
        let directory = directory.canonicalize()?;
        let binaries = program_directory()?;
        let (service, server) = start_service(&binaries, &directory, options)?;
        let mut host = Self {
            binaries,
            directory,
            service,
            server,
            mounted: None,
        };
        host.mount()?;
        Ok(host)
    }

    fn mount(&mut self) -> Result<()> {
        let keeper = Keeper::unmount(&self.mount_point())?;
        let output = Command::new(self.binary("poolfs"))
            .arg(self.store())
            .arg(self.mount_point())
            .output()
            .context("starting poolfs")?;
        ensure!(
            output.status.success(),
            "mounting the pool failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        self.mounted = Some(keeper);
        Ok(())
    }

    /// The path of one of the project's programs.
    pub fn binary(&self, name: &str) -> PathBuf {
        self.binaries.join(name)
    }

    /// The store's directory.
    pub fn store(&self) -> PathBuf {
        self.directory.join("store")
    }

    /// Where the pool is mounted.
    pub fn mount_point(&self) -> PathBuf {
        self.directory.join("mount")
    }

    /// The service's address.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Runs `pool --json` with `arguments` and reads what it prints.
    pub fn pool(&self, arguments: &[&str]) -> Result<Value> {
        let output = Command::new(self.binary("pool"))
            .args(["--server", &self.server, "--json"])
            .args(arguments)
            .output()
            .context("starting pool")?;
        if !output.status.success() {
            bail!(
                "pool {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("reading what pool {} printed", arguments.join(" ")))
    }

    /// Bytes of disk that the store's segments take up.
    pub fn segment_disk_bytes(&self) -> Result<u64> {
        use std::os::unix::fs::MetadataExt;
        let mut bytes = 0;
        for segment in self.segments()? {
            bytes += segment.metadata()?.blocks() * 512;
        }
        Ok(bytes)
    }

    /// The files of the store's segments.
    pub fn segments(&self) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(self.store().join("segments"));
        let entries = entries.context("listing the store's segments")?;
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == "seg") {
                paths.push(path);
            }
        }
        Ok(paths)
    }
}

/// Where the project's programs are: beside this one, or one above for a test.
pub fn program_directory() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let directory = own.parent().context("this program is in no directory")?;
    let directory = match directory.file_name() {
        Some(name) if name == "deps" => directory.parent().context("deps is in no directory")?,
        _ => directory,
    };
    ensure!(
        directory.join("poolsvc").exists(),
        "{} has no poolsvc: run `make build` first",
        directory.display()
    );
    Ok(directory.into())
}

fn start_service(binaries: &Path, directory: &Path, options: &[&str]) -> Result<(Child, String)> {
    let mut service = Command::new(binaries.join("poolsvc"))
        .arg("--store")
        .arg(directory.join("store"))
        .args(["--listen", "127.0.0.1:0"])
        .args(options)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting poolsvc")?;
    // It says where it listens once it is ready.
    let output = service
        .stderr
        .take()
        .context("poolsvc has no standard error")?;
    let (sender, receiver) = std::sync::mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let deadline = Instant::now() + PATIENCE;
    let mut said = Vec::new();
    while let Ok(line) = receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if let Some(address) = line.split("127.0.0.1:").nth(1) {
            let port: String = address.chars().take_while(char::is_ascii_digit).collect();
            return Ok((service, format!("http://127.0.0.1:{port}")));
        }
        said.push(line);
    }
    let _ = service.kill();
    let _ = service.wait();
    bail!("poolsvc did not become ready:\n{}", said.join("\n"))
}

impl Drop for Host {
    fn drop(&mut self) {
        self.mounted = None;
        let _ = rustix::process::Pid::from_raw(self.service.id() as i32)
            .map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::TERM));
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if !matches!(self.service.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.service.kill();
        let _ = self.service.wait();
    }
}
