//! Scrubs that the daemon runs by itself, one after the other.

use std::num::NonZeroU64;
use std::time::Duration;

use pool_api::Service;
use pool_store::now;
use tokio::time::sleep;

use crate::shutdown::Stop;

/// How long it takes at most until the clock is looked at again, which may have been set, and whether somebody else
/// has scrubbed meanwhile.
const LOOK: Duration = Duration::from_secs(600);

/// Runs until `stop` turns true.
pub(crate) async fn run(
    service: Service,
    interval: Option<Duration>,
    rate: Option<NonZeroU64>,
    mut stop: Stop,
) {
    let Some(interval) = interval else {
        return;
    };
    loop {
        let wait = due_in(&service, interval).await;
        if wait.is_zero() {
            tokio::select! {
                scrubbed = service.scrub_unless_as_fast(rate) => {
                    let is_done = match scrubbed {
                        Ok(Some(scrubbed)) => scrubbed.is_complete,
                        // Somebody asked for one that is as fast.
                        Ok(None) => false,
                        Err(problem) => {
                            tracing::error!(why = problem.body.detail, "a scrub is put off");
                            false
                        }
                    };
                    // What is in the way may stay there.
                    if !is_done {
                        tokio::select! {
                            () = sleep(LOOK) => {}
                            () = stop.requested() => return,
                        }
                    }
                }
                // The service was told, too: it ends by itself, and is waited for by who closes the store.
                () = stop.requested() => return,
            }
        }
        tokio::select! {
            () = sleep(wait.min(LOOK)) => {}
            () = stop.requested() => return,
        }
    }
}

/// How long it takes until the next one is due. The first is an interval after the store was looked at first, which is
/// noted, so that restarts do not put it off for ever.
async fn due_in(service: &Service, interval: Duration) -> Duration {
    let service = service.clone();
    let look = move || {
        let state = service.scrub_state();
        if state.is_new()
            && let Err(error) = state.write(service.store().directory())
        {
            tracing::warn!(%error, "noting when to scrub first");
        }
        state.due_in(interval, now())
    };
    // It may not be refused but by a runtime that ends.
    tokio::task::spawn_blocking(look).await.unwrap_or(LOOK)
}
