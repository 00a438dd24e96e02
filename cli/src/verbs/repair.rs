//! `pool repair`: an index from the journal, or a journal from the index.

use std::fmt::Write as _;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use pool_gc::{Thing, Why};
use pool_store::StoreView;
use pool_store::repair::{self, Remedy, RepairReport};
use serde::Serialize;

use super::{backup, why};
use crate::meter::Meter;
use crate::scratch::Scratch;
use crate::{Global, output};

/// Mend the index or the journal of a store
///
/// A store keeps every change twice, in its index and in its journal. When the index is gone, damaged or another than the journal has it, it is made anew from the
/// journal: all that was acknowledged is in it, every object is compared with its digest on the way, and those that are
/// damaged are named, with what needs them, and noted, so that the next push of that writes them anew. When the journal is gone or damaged it is begun anew from the index. Slots of segments that something refers to
/// are put on record as used, if they are not. What is
/// replaced is moved to lost/ in the store's directory, and nothing is removed. A repair that is cut short is simply run again.
/// No service may run on the store meanwhile, and mounts of it are to be made anew afterwards. Exits with 1 when objects
/// are damaged, when segments are missing, and when --dry-run finds something to repair.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  pool repair --store /var/lib/pool --dry-run\n  pool repair --store /var/lib/pool"
)]
pub(crate) struct Repair {
    /// The store's directory
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// Say what is wrong and what would be done; change nothing
    #[arg(long)]
    dry_run: bool,
    /// Read so many bytes a second at most
    #[arg(long, value_name = "BYTES")]
    rate: Option<NonZeroU64>,
}

/// What was done, and what needs what is damaged.
#[derive(Debug, Serialize)]
struct Outcome {
    #[serde(flatten)]
    report: RepairReport,
    /// What needs each damaged object.
    why: Vec<Why>,
}

impl Repair {
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode> {
        let mut meter = Meter::new(self.rate, global.json);
        let report = repair::repair(&self.store, self.dry_run, &mut |progress| {
            meter.step(progress);
        });
        drop(meter);
        let report = report?;
        let mut needed = Vec::new();
        if !report.damaged_objects.is_empty() {
            let scratch = Scratch::new()?;
            let view = StoreView::follow(&self.store, &scratch.index())?;
            for id in &report.damaged_objects {
                needed.push(pool_gc::why(&view, Thing::Object(*id))?);
            }
        }
        let outcome = Outcome {
            report,
            why: needed,
        };
        output::print_if_read(global.json, &outcome, text)?;
        let report = &outcome.report;
        let is_mended = report.done || report.wrong.is_empty();
        Ok(
            if is_mended && report.damaged_objects.is_empty() && report.left.is_empty() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            },
        )
    }
}

fn text(outcome: &Outcome) -> String {
    let report = &outcome.report;
    let wrong = match report.wrong.as_slice() {
        [] => "nothing of index and journal".to_owned(),
        wrong => wrong.join("; "),
    };
    let remedy = match report.remedy {
        Remedy::None => "none needed",
        Remedy::Replay => "the index is brought up from the journal",
        Remedy::Index => "the index is made anew from the journal",
        Remedy::Journal => "the journal is begun anew from the index",
        Remedy::Segments => "what is referred to is put on record as used",
    };
    let result = if report.done {
        "done"
    } else if report.wrong.is_empty() {
        "nothing to do"
    } else {
        "not done: this was a rehearsal"
    };
    let mut out = output::pairs(&[
        ("wrong", wrong),
        ("remedy", remedy.to_owned()),
        ("commits", report.commits.to_string()),
        ("from the logs", report.replayed.to_string()),
        ("objects compared", report.objects.to_string()),
        ("damaged objects", backup::damaged(&report.damaged_objects)),
        ("result", result.to_owned()),
    ]);
    // Writing to a string cannot fail.
    for path in &report.moved {
        let path = path.display();
        let _ = writeln!(out, "moved to {path}: remove it if nobody misses it");
    }
    for why in &outcome.why {
        out += &why::text(why);
    }
    if !report.damaged_objects.is_empty() {
        out.push_str(
            "check the disk (dmesg, smartctl), then start poolsvc and push again what needs them: what is damaged is written anew\n",
        );
    }
    for left in &report.left {
        let _ = writeln!(out, "not mended: {left}");
    }
    out
}
