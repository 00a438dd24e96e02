//! `pool gc`: collect what nothing refers to.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use pool_gc::CollectReport;

use crate::{Global, output, server};

/// Collect what nothing refers to and give its disk space back
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  pool gc --dry-run\n  pool gc --grace 0")]
pub(crate) struct Gc {
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Keep library versions for so many seconds after their last user has gone; the service has
    /// a default
    #[arg(long, value_name = "SECONDS")]
    grace: Option<u64>,
}

impl Gc {
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode> {
        let grace = self.grace.map(Duration::from_secs);
        let report = server::client(global)?.collect(self.dry_run, grace)?;
        output::print(global.json, &report, text)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn text(report: &CollectReport) -> String {
    let libraries: Vec<_> = report.libraries.iter().map(ToString::to_string).collect();
    let named = if libraries.is_empty() {
        "0".to_owned()
    } else {
        format!("{} ({})", libraries.len(), libraries.join(" "))
    };
    let segments = format!(
        "{} dead, {} emptied, {} unlinked",
        report.segments_retired.len(),
        report.segments_evacuated.len(),
        report.segments_reaped.len()
    );
    let verb = if report.dry_run {
        "would free"
    } else {
        "freed"
    };
    let waiting = format!(
        "{} in {} segments",
        output::bytes(report.waiting_bytes),
        report.segments_waiting.len()
    );
    let skipped = report.segments_skipped.iter().map(|skipped| {
        format!(
            "segment {} stays ({}): {}\n",
            skipped.segment,
            skipped.reason.name(),
            skipped.why
        )
    });
    let ms = |micros: u64| format!("{:.1} ms", micros as f64 / 1000.0);
    let mut took = ms(report.duration_us);
    if !report.dry_run {
        let hold = ms(report.longest_hold_us);
        took = format!("{took}, commits waited {hold} at most");
    }
    let pairs = output::pairs(&[
        ("libraries", named),
        ("objects", report.objects.to_string()),
        ("pages", report.pages.to_string()),
        ("windows", report.windows.to_string()),
        ("segments", segments),
        (verb, output::bytes(report.freed_bytes)),
        ("waiting for leases", waiting),
        ("took", took),
    ]);
    pairs + &skipped.collect::<String>()
}

#[cfg(test)]
mod tests {
    use pool_core::extent::SegmentId;
    use pool_store::collection::{SkipReason, Skipped};

    use super::*;

    #[test]
    fn what_waits_and_what_was_left_is_told() {
        let report = CollectReport {
            segments_waiting: vec![SegmentId(3), SegmentId(4)],
            waiting_bytes: 3 << 20,
            duration_us: 12_345,
            longest_hold_us: 678,
            segments_skipped: vec![Skipped {
                segment: SegmentId(0x1f),
                reason: SkipReason::NoRoom,
                why: "the disk has 5".into(),
            }],
            ..CollectReport::default()
        };
        let text = text(&report);
        assert!(text.contains("3.0 MiB in 2 segments\n"), "{text}");
        assert!(
            text.contains("12.3 ms, commits waited 0.7 ms at most\n"),
            "{text}"
        );
        assert!(
            text.ends_with("segment 0000001f stays (no-room): the disk has 5\n"),
            "{text}"
        );
    }
}
