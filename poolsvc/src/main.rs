//! The daemon's entry: arguments, log, signals.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use pool_store::descriptors;
use poolsvc::notify::Manager;
use poolsvc::{Arguments, Daemon, Settings, leave};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Time for everything to end once it is told to, of which requests have 20 seconds.
const END_TIME: Duration = Duration::from_secs(25);

/// What clap ends with, too.
const WRONG_USE: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env("POOLSVC_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        // It would be said there, where nothing can be written, and that ends the program.
        .log_internal_errors(false)
        .init();
    let failed = |error: anyhow::Error, status| {
        // Whoever does not hear it sees the exit status.
        let _ = writeln!(std::io::stderr(), "poolsvc: {error:#}");
        status
    };
    match Settings::gather(arguments).map(run) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => failed(error, ExitCode::FAILURE),
        Err(error) => failed(error, ExitCode::from(WRONG_USE)),
    }
}

fn run(settings: Settings) -> anyhow::Result<()> {
    descriptors::raise_limit();
    let runtime = tokio::runtime::Runtime::new().context("starting threads")?;
    let manager = Manager::new(std::env::var_os("NOTIFY_SOCKET"));
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("catching SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("catching SIGINT")?;
        let store = settings.store.clone();
        let socket = settings.socket.clone();
        let daemon = Daemon::start(settings).await?;
        announce(&daemon, socket.as_deref());
        tracing::info!(address = %daemon.address(), store = %store.display(), "ready");
        manager.tell("READY=1");
        let mut told = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        told().await;
        tracing::info!("stopping");
        manager.tell("STOPPING=1");
        tokio::select! {
            () = daemon.stop() => {
                tracing::info!("stopped");
                return Ok(());
            }
            () = told() => tracing::warn!("told to stop again: cutting requests off"),
            () = tokio::time::sleep(END_TIME) => tracing::warn!("cutting off what does not end"),
        }
        // The runtime would wait for it.
        leave::now()
    })
}

/// Prints where the service is. Nobody may be there to read it, which is no reason to end.
fn announce(daemon: &Daemon, socket: Option<&Path>) {
    let unix = socket.map_or_else(String::new, |path| format!("unix:{}\n", path.display()));
    let text = format!("http://{}\n{unix}", daemon.address());
    if let Err(error) = std::io::stdout().write_all(text.as_bytes()) {
        tracing::debug!(%error, "nobody reads the address");
    }
}
