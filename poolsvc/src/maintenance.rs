//! What the daemon does by itself: forget idle uploads, and collect if told to.

use std::time::Duration;

use pool_api::Service;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};

use crate::shutdown::Stop;

/// How often idle uploads are looked for.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(15);

/// Runs until `stop` turns true.
pub(crate) async fn run(service: Service, collect_interval: Option<Duration>, mut stop: Stop) {
    let mut expiry = interval(EXPIRY_INTERVAL);
    // Without an interval the clock still ticks, rarely, and nothing comes of it.
    let period = collect_interval.unwrap_or(Duration::from_secs(86_400));
    let mut collection = interval_at(Instant::now() + period, period);
    collection.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = expiry.tick() => service.expire_uploads(),
            _ = collection.tick(), if collect_interval.is_some() => {
                match service.collect(service.options().grace, false).await {
                    Ok(_) => {}
                    Err(problem) => tracing::error!(why = problem.body.what, "collecting failed"),
                }
            }
            () = stop.requested() => return,
        }
    }
}
