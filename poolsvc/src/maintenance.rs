//! What the daemon does by itself: forget idle uploads, write checkpoints, and collect if told to.

use std::pin::pin;
use std::time::Duration;

use pool_api::Service;
use tokio::time::{interval, sleep};

use crate::shutdown::Stop;

/// How often idle uploads are looked for, and whether a checkpoint is due.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(15);

/// Runs until `stop` turns true.
pub(crate) async fn run(service: Service, collect_interval: Option<Duration>, mut stop: Stop) {
    let mut expiry = interval(EXPIRY_INTERVAL);
    let until_next = || sleep(collect_interval.unwrap_or(Duration::MAX));
    let mut collection = pin!(until_next());
    loop {
        tokio::select! {
            _ = expiry.tick() => {
                service.expire_uploads();
                if let Err(problem) = service.checkpoint_if_due().await {
                    tracing::warn!(why = problem.body.detail, "writing a checkpoint failed");
                }
            }
            () = &mut collection, if collect_interval.is_some() => {
                match service.collect(service.options().grace, false).await {
                    Ok(_) => {}
                    Err(problem) => tracing::error!(why = problem.body.detail, "collecting failed"),
                }
                collection.set(until_next());
            }
            () = stop.requested() => return,
        }
    }
}
