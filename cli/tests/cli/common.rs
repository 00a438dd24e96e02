//! A service, and `pool` asking it.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;

use poolsvc::{Daemon, Settings};
use serde_json::Value;
use tempfile::TempDir;

/// A service in this process, and a folder to work in.
pub(crate) struct Pool {
    pub(crate) directory: TempDir,
    pub(crate) url: String,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Pool {
    pub(crate) fn start() -> Self {
        Self::start_with(|_| ())
    }

    pub(crate) fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut settings = Settings::for_store(directory.path().join("store"));
        change(&mut settings);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (started, address) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let daemon = Daemon::start(settings).await.unwrap();
                started.send(daemon.address()).unwrap();
                // Either way the service ends.
                let _ = stopped.await;
                daemon.stop().await;
            });
        });
        Self {
            url: format!("http://{}", address.recv().unwrap()),
            directory,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub(crate) fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = pool(arguments);
        command
            .env("POOL_SERVER", &self.url)
            .current_dir(self.directory.path());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Standard output of a run that must succeed.
    #[track_caller]
    pub(crate) fn text(&self, arguments: &[&str]) -> String {
        String::from_utf8(self.bytes(arguments)).unwrap()
    }

    #[track_caller]
    pub(crate) fn bytes(&self, arguments: &[&str]) -> Vec<u8> {
        let output = self.run(arguments);
        let says = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {says}");
        output.stdout
    }

    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.push("--json");
        serde_json::from_slice(&self.bytes(&all)).unwrap()
    }

    /// Standard error of a run that must fail with `code`.
    #[track_caller]
    pub(crate) fn refused(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.end();
    }
}

pub(crate) fn pool(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pool"));
    command
        .args(arguments)
        .env_remove("POOL_SERVER")
        .env_remove("POOL_TOKEN")
        .env_remove("POOL_REGISTRY")
        .env_remove("SSL_CERT_FILE")
        .stdin(Stdio::null());
    command
}

pub(crate) const BUSYBOX: &str = "/bin/busybox";

pub(crate) fn busybox() -> Vec<u8> {
    std::fs::read(BUSYBOX).expect("busybox-static is installed")
}
