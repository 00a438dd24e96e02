//! Collections that the daemon runs by itself, one after the other.

use std::time::Duration;

use pool_api::{Cause, Service};
use tokio::time::sleep;

use crate::shutdown::Stop;

/// Runs until `stop` turns true.
pub(crate) async fn run(service: Service, interval: Option<Duration>, mut stop: Stop) {
    let Some(interval) = interval else {
        return;
    };
    loop {
        tokio::select! {
            () = sleep(interval) => {}
            () = stop.requested() => return,
        }
        if service.collections_are_paused() {
            tracing::warn!("a collection is due, and they are paused (pool gc --resume)");
            continue;
        }
        let collected = service.collect(service.options().grace, Cause::Scheduled);
        tokio::select! {
            collected = collected => if let Err(problem) = collected {
                tracing::error!(why = problem.body.detail, "collecting failed");
            },
            // The service was told, too: it ends by itself, and is waited for by who closes the store.
            () = stop.requested() => return,
        }
    }
}
