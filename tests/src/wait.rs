//! Waiting for what another thread, process or the kernel is about to do.
//!
//! A test waits for the thing itself, never for a while: however busy the machine is, it goes on as
//! soon as the thing has happened, and fails only when it does not happen at all.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// How long anything is waited for. Far longer than a busy machine takes: only what will never
/// happen takes this long.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until `condition` holds.
///
/// # Panics
///
/// When it does not within [`PATIENCE`], with `what` it was.
pub fn until(what: impl Display, mut condition: impl FnMut() -> bool) {
    until_some(what, || condition().then_some(()));
}

/// Waits until `look` finds something, and answers with it.
///
/// # Panics
///
/// When it does not within [`PATIENCE`], with `what` was looked for.
pub fn until_some<T>(what: impl Display, mut look: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        // Looked for once more after the time is up: this thread may have slept through it.
        let late = since.elapsed() > PATIENCE;
        if let Some(found) = look() {
            return found;
        }
        assert!(!late, "waited {} s in vain: {what}", PATIENCE.as_secs());
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}
