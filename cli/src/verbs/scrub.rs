//! `pool scrub`: is everything what it says, before somebody needs it?

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use pool_gc::{Thing, Why};
use pool_store::StoreView;
use pool_store::scrub::{self, ScrubReport};
use serde::Serialize;

use super::{backup, why};
use crate::meter::Meter;
use crate::scratch::Scratch;
use crate::{Global, output};

/// Read all of a store in the order in which it lies, and compare it with its digests
///
/// Changes nothing. A service may run on the store and take pushes, deletions and collections meanwhile; no more than one segment at
/// a time is kept from being collected. Exits with 1 when something is damaged, and says what needs it. Unlike pool fsck it does
/// not compare the parts of the index with each other.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  pool scrub --store /var/lib/pool\n  pool scrub --store /var/lib/pool --rate 20000000"
)]
pub(crate) struct Scrub {
    /// The store's directory
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// Read so many bytes a second at most
    #[arg(long, value_name = "BYTES")]
    rate: Option<NonZeroU64>,
}

/// What was found, and what needs it.
#[derive(Debug, Serialize)]
struct Found {
    #[serde(flatten)]
    report: ScrubReport,
    /// What needs each damaged object.
    why: Vec<Why>,
}

impl Scrub {
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode> {
        let scratch = Scratch::new()?;
        let view = StoreView::follow(&self.store, &scratch.index())?;
        let mut meter = Meter::new(self.rate, global.json);
        let report = scrub::scrub(&view, &mut |progress| meter.step(progress));
        drop(meter);
        let report = report?;
        let objects = report.damaged_objects.iter();
        let why = objects.map(|id| pool_gc::why(&view, Thing::Object(*id)));
        let why = why.collect::<Result<_, _>>()?;
        let found = Found { report, why };
        output::print(global.json, &found, text)?;
        Ok(if found.report.damaged_objects.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

fn text(found: &Found) -> String {
    let report = &found.report;
    let mut out = output::pairs(&[
        ("segments", report.segments.to_string()),
        ("pages", report.pages.to_string()),
        ("damaged objects", backup::damaged(&report.damaged_objects)),
    ]);
    for why in &found.why {
        out += &why::text(why);
    }
    if !report.damaged_objects.is_empty() {
        out.push_str(
            "check the disk (dmesg, smartctl), remove what needs them, collect, and push it again\n",
        );
    }
    out
}
