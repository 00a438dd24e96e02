//! Being told to end in the middle of something.

use std::ffi::c_int;
use std::io;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind};

/// How long the last thing to be done may take.
const LAST_TIME: Duration = Duration::from_secs(2);

/// What ends this process in an orderly way, unless it ignores it.
const SIGNALS: [SignalKind; 2] = [SignalKind::interrupt(), SignalKind::terminate()];

/// Whether this process has been told to end.
pub(crate) struct Ending(Arc<AtomicBool>);

impl Ending {
    /// Sees to it that `last` is done when this process is told to end (SIGINT, SIGTERM), for two seconds at most; then
    /// the signal ends it, as it would have without this.
    pub(crate) fn after(last: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let mut signals = Vec::new();
        for kind in SIGNALS {
            if !is_ignored(kind) {
                signals.push((kind, listen(&runtime, kind)?));
            }
        }
        let told = Arc::new(AtomicBool::new(false));
        let ending = Self(Arc::clone(&told));
        thread::Builder::new().spawn(move || {
            let number = runtime.block_on(first_of(&mut signals));
            told.store(true, Ordering::SeqCst);
            let (done, is_done) = mpsc::channel();
            let doing = thread::Builder::new().spawn(move || {
                last();
                // Nobody may wait any more.
                let _ = done.send(());
            });
            if doing.is_ok() {
                let _ = is_done.recv_timeout(LAST_TIME);
            }
            end_by(number)
        })?;
        Ok(ending)
    }

    /// Returns at once, but never once this process was told to end: what comes of its work then is nobody's concern.
    pub(crate) fn wait_if_told(&self) {
        while self.0.load(Ordering::SeqCst) {
            thread::park();
        }
    }
}

fn listen(runtime: &Runtime, kind: SignalKind) -> io::Result<Signal> {
    let _inside = runtime.enter();
    tokio::signal::unix::signal(kind)
}

/// Waits for the first of two signals at most, and says which it is.
async fn first_of(signals: &mut [(SignalKind, Signal)]) -> c_int {
    match signals {
        [] => std::future::pending().await,
        [(kind, signal)] => {
            signal.recv().await;
            kind.as_raw_value()
        }
        [(one, first), (other, second), ..] => tokio::select! {
            _ = first.recv() => one.as_raw_value(),
            _ = second.recv() => other.as_raw_value(),
        },
    }
}

/// Whether whoever started this process wants it to go on, as shells do with what runs in the background.
fn is_ignored(kind: SignalKind) -> bool {
    let number = kind.as_raw_value();
    // SAFETY: neither handler runs any code of this process, and nothing else of it has one yet.
    unsafe {
        let is_ignored = libc::signal(number, libc::SIG_DFL) == libc::SIG_IGN;
        if is_ignored {
            libc::signal(number, libc::SIG_IGN);
        }
        is_ignored
    }
}

fn end_by(number: c_int) -> ! {
    // SAFETY: the default handler runs no code of this process, and any number may be raised.
    unsafe {
        libc::signal(number, libc::SIG_DFL);
        libc::raise(number);
    }
    // As shells say it.
    process::exit(128 + number)
}
