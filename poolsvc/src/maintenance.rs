//! What the daemon does by itself in passing: forget idle uploads, write checkpoints.

use std::time::Duration;

use pool_api::Service;
use tokio::time::interval;

use crate::shutdown::Stop;

/// How often idle uploads are looked for, and whether a checkpoint is due.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(15);

/// Runs until `stop` turns true.
pub(crate) async fn run(service: Service, mut stop: Stop) {
    let mut expiry = interval(EXPIRY_INTERVAL);
    loop {
        tokio::select! {
            _ = expiry.tick() => {
                service.expire_uploads();
                if let Err(problem) = service.checkpoint_if_due().await {
                    tracing::warn!(why = problem.body.detail, "writing a checkpoint failed");
                }
            }
            () = stop.requested() => return,
        }
    }
}
