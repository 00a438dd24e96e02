//! `pool scrub`: is everything what it says, before somebody needs it?

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use pool_core::name::Referent;
use pool_gc::{Scrubbed, Thing, Why};
use pool_store::StoreView;
use pool_store::audit::DamagedFile;
use pool_store::scrub::{self, ScrubReport};
use serde::Serialize;

use super::{backup, why};
use crate::meter::Meter;
use crate::scratch::Scratch;
use crate::{Global, output, server};

/// Read all of a store in the order in which it lies, and compare it with its digests
///
/// Of the store of a service, or of one on disk. First superblock, mark, index and journal are read anew, and index and journal
/// compared; then all segments. Others may push, delete and collect meanwhile; no more than one segment at a time is kept from being
/// collected. A service goes on where its last scrub was interrupted, or takes over from one that runs, and remembers what is damaged: the next push of it writes that
/// anew. Superblock and mark it writes anew; a damaged index or journal is for pool repair. With --store nothing is changed. Exits
/// with 1 when something is damaged, and says what needs it. Unlike pool fsck it does not compare the parts of the index with each other.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  pool scrub\n  pool scrub --store /var/lib/pool\n  pool scrub --store /var/lib/pool --rate 20000000"
)]
pub(crate) struct Scrub {
    /// Read the store in this directory, whether a service runs on it or not
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Read so many bytes of segments a second at most
    #[arg(long, value_name = "BYTES")]
    rate: Option<NonZeroU64>,
}

/// What was found, and what needs it.
#[derive(Debug, Serialize)]
struct Found {
    /// It came to the store's end.
    #[serde(rename = "complete")]
    is_complete: bool,
    #[serde(flatten)]
    report: ScrubReport,
    /// What needs each damaged object.
    why: Vec<Why>,
}

impl Scrub {
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode> {
        let found = match &self.store {
            Some(directory) => self.read(directory, global)?,
            None => self.ask(global)?,
        };
        output::print_if_read(global.json, &found, |found| {
            text(found, self.store.is_some())
        })?;
        if !found.is_complete {
            bail!(
                "it did not come to the store's end, as the service was stopped or somebody asked for another scrub, and the next one \
                 goes on there; or it could not read all of the index, which is told with the damaged files"
            );
        }
        Ok(if found.report.is_clean() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn read(&self, directory: &Path, global: &Global) -> Result<Found> {
        let scratch = Scratch::new()?;
        let view = StoreView::follow(directory, &scratch.index())?;
        let mut meter = Meter::new(self.rate, global.json);
        let report = scrub::scrub(&view, &mut |progress| meter.step(progress));
        drop(meter);
        let report = report?;
        let objects = report.damaged_objects.iter();
        let why = objects.map(|id| pool_gc::why(&view, Thing::Object(*id)));
        Ok(Found {
            is_complete: true,
            why: why.collect::<Result<_, _>>()?,
            report,
        })
    }

    fn ask(&self, global: &Global) -> Result<Found> {
        let client = server::client(global)?;
        let Scrubbed {
            is_complete,
            report,
        } = client.scrub(self.rate)?;
        let objects = report.damaged_objects.iter();
        let why = objects.map(|id| client.why(&Referent::Digest(*id)));
        Ok(Found {
            is_complete,
            why: why.collect::<Result<_, _>>()?,
            report,
        })
    }
}

/// What is wrong with a file, and what to do about it.
fn line(file: &DamagedFile) -> String {
    let (place, what) = (file.place(), &file.what);
    if file.mended {
        format!("{place}: {what}\n  it was written anew; check the disk (dmesg, smartctl)\n")
    } else {
        format!("{place}: {what}\n  {}\n", file.advice)
    }
}

fn text(found: &Found, is_on_disk: bool) -> String {
    let report = &found.report;
    let mut out = output::pairs(&[
        ("segments", report.segments.to_string()),
        ("pages", report.pages.to_string()),
        ("damaged objects", backup::damaged(&report.damaged_objects)),
        (
            "damaged files",
            match report.damaged_files.len() {
                0 => "none".to_owned(),
                count => count.to_string(),
            },
        ),
    ]);
    for file in &report.damaged_files {
        out += &line(file);
    }
    for why in &found.why {
        out += &why::text(why);
    }
    if !report.damaged_objects.is_empty() {
        out.push_str("check the disk (dmesg, smartctl), and push again what needs them\n");
        if is_on_disk {
            out.push_str(
                "before that let the service find them, so that it writes them anew: pool scrub without --store\n",
            );
        }
    }
    out
}
