//! Collections that the daemon runs by itself, one after the other: when one is due, and when the disk is full.

use std::time::Duration;

use pool_api::{Cause, Service};
use tokio::time::sleep;

use crate::shutdown::Stop;

/// Time after a collection before another is begun because the disk is full: it would hardly find more.
const FULL_DISK_PAUSE: Duration = Duration::from_secs(60);

/// Runs until `stop` turns true.
pub(crate) async fn run(service: Service, interval: Option<Duration>, mut stop: Stop) {
    let Some(interval) = interval else {
        return;
    };
    let mut pause = Duration::ZERO;
    loop {
        let full_disk = async {
            sleep(pause).await;
            service.full_disk().await;
        };
        let cause = tokio::select! {
            () = sleep(interval) => Cause::Scheduled,
            () = full_disk => Cause::FullDisk,
            () = stop.requested() => return,
        };
        pause = FULL_DISK_PAUSE;
        if service.collections_are_paused() {
            tracing::warn!("a collection is due, and they are paused (pool gc --resume)");
            continue;
        }
        let collected = service.collect(service.options().grace, cause);
        tokio::select! {
            collected = collected => if let Err(problem) = collected {
                tracing::error!(why = problem.body.detail, "collecting failed");
            },
            // The service was told, too: it ends by itself, and is waited for by who closes the store.
            () = stop.requested() => return,
        }
    }
}
