//! `pool gc`: collect what nothing refers to.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use pool_api::client::Client;
use pool_api::types::Collections;
use pool_gc::CollectReport;
use pool_store::collection::Skipped;

use crate::output::Column::{Number, Text};
use crate::{Global, output, server};

/// Collect what nothing refers to and give its disk space back
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  pool gc --dry-run\n  pool gc --grace 0\n  pool gc --history\n  pool gc --pause"
)]
pub(crate) struct Gc {
    #[command(flatten)]
    instead: Instead,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Keep library versions for so many seconds after their last user has gone; the service has
    /// a default
    #[arg(long, value_name = "SECONDS")]
    grace: Option<u64>,
}

/// What is done instead of collecting.
#[derive(Debug, Args)]
#[group(multiple = false, conflicts_with_all = ["dry_run", "grace"])]
#[expect(clippy::struct_excessive_bools, reason = "a flag each")]
struct Instead {
    /// Say what the last collections did, when and why, and whether one is running
    #[arg(long)]
    history: bool,
    /// Have collections wait, the one that is running, too, which after a minute ends; also after a restart of the service
    #[arg(long)]
    pause: bool,
    /// Let collections go on, the one that was running, too
    #[arg(long)]
    resume: bool,
    /// Stop the collection that is running: what it did stays done, and the next one does the rest
    #[arg(long)]
    stop: bool,
}

impl Instead {
    /// Does it, if anything is asked for.
    fn run(&self, client: &Client) -> Result<Option<Collections>> {
        Ok(Some(if self.history {
            client.collections()?
        } else if self.pause || self.resume {
            client.pause_collections(self.pause)?
        } else if self.stop {
            client.stop_collection()?
        } else {
            return Ok(None);
        }))
    }
}

impl Gc {
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode> {
        let client = server::client(global)?;
        if let Some(collections) = self.instead.run(&client)? {
            output::print(global.json, &collections, history)?;
            return Ok(ExitCode::SUCCESS);
        }
        let grace = self.grace.map(Duration::from_secs);
        let report = client.collect(self.dry_run, grace)?;
        output::print(global.json, &report, text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The last collections, the newest first.
fn history(collections: &Collections) -> String {
    let mut lines = Vec::new();
    if let Some(running) = collections.running {
        let (since, why) = (output::age(running.begun_at), running.cause.name());
        let state = if collections.paused {
            "is paused"
        } else {
            "is running"
        };
        lines.push(format!("a collection {state}, begun {since} ago ({why})\n"));
    } else if collections.paused {
        lines.push("collections are paused (pool gc --resume)\n".to_owned());
    }
    let rows = collections.last.iter().map(|collected| {
        vec![
            output::age(collected.begun_at),
            collected.cause.name().to_owned(),
            collected.outcome.name().to_owned(),
            output::bytes(collected.freed_bytes),
            collected.objects.to_string(),
            collected.pages.to_string(),
            collected.left.to_string(),
            ms(collected.duration_us),
        ]
    });
    let columns = [
        Text("AGO"),
        Text("WHY"),
        Text("OUTCOME"),
        Number("FREED"),
        Number("OBJECTS"),
        Number("PAGES"),
        Number("LEFT"),
        Number("TOOK"),
    ];
    lines.push(output::table(&columns, &rows.collect::<Vec<_>>()));
    // Of the newest: what stayed before stays, or has gone since.
    for collected in collections.last.iter().take(1) {
        if let Some(error) = &collected.error {
            lines.push(format!("the last one failed: {error}\n"));
        }
        lines.push(stay(&collected.segments_left));
    }
    lines.concat()
}

/// Segments that were left, a line each.
fn stay(skipped: &[Skipped]) -> String {
    let lines = skipped.iter().map(|skipped| {
        format!(
            "segment {} stays ({}): {}\n",
            skipped.segment,
            skipped.reason.name(),
            skipped.why
        )
    });
    lines.collect()
}

fn ms(micros: u64) -> String {
    format!("{:.1} ms", micros as f64 / 1000.0)
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
    let mut took = ms(report.duration_us);
    if !report.dry_run {
        let hold = ms(report.longest_hold_us);
        took = format!("{took}, commits waited {hold} at most");
    }
    if report.stopped {
        took += ", and was stopped: the next one does the rest";
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
    pairs + &stay(&report.segments_skipped)
}

#[cfg(test)]
mod tests {
    use pool_api::types::Running;
    use pool_core::extent::SegmentId;
    use pool_gc::{Cause, Collected};
    use pool_store::collection::SkipReason;

    use super::*;

    #[test]
    fn a_history_tells_what_was_done_and_what_goes_on() {
        let failed = Collected::of(0, Cause::Scheduled, &Err("the disk is full".into()));
        let done = CollectReport {
            freed_bytes: 3 << 20,
            ..CollectReport::default()
        };
        let mut collections = Collections {
            paused: true,
            running: None,
            last: vec![failed, Collected::of(0, Cause::Asked, &Ok(done))],
        };
        let told = history(&collections);
        let lines: Vec<_> = told.lines().collect();
        assert_eq!(lines[0], "collections are paused (pool gc --resume)");
        assert!(lines[1].starts_with("AGO"), "{told}");
        for (line, words) in [
            (lines[2], ["scheduled", "failed", "0 B"]),
            (lines[3], ["asked", "done", "3.0 MiB"]),
        ] {
            assert!(words.iter().all(|word| line.contains(word)), "{told}");
        }
        assert_eq!(lines[4], "the last one failed: the disk is full");
        collections.running = Some(Running {
            begun_at: 0,
            cause: Cause::Asked,
        });
        assert!(history(&collections).starts_with("a collection is paused, begun "));
        collections.paused = false;
        assert!(history(&collections).starts_with("a collection is running, begun "));
    }

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
