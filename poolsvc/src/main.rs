//! The daemon's entry: arguments, log, signals.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use poolsvc::notify::Manager;
use poolsvc::{Arguments, Daemon, Settings};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env("POOLSVC_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("poolsvc: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let settings = Settings::gather(arguments)?;
    let runtime = tokio::runtime::Runtime::new().context("starting threads")?;
    let manager = Manager::new(std::env::var_os("NOTIFY_SOCKET"));
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("catching SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("catching SIGINT")?;
        let store = settings.store.clone();
        let socket = settings.socket.clone();
        let daemon = Daemon::start(settings).await?;
        println!("http://{}", daemon.address());
        if let Some(socket) = socket {
            println!("unix:{}", socket.display());
        }
        tracing::info!(address = %daemon.address(), store = %store.display(), "ready");
        manager.tell("READY=1");
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        manager.tell("STOPPING=1");
        daemon.stop().await;
        tracing::info!("stopped");
        Ok(())
    })
}
