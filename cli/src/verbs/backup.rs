//! `pool backup`: a store's contents, elsewhere.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use pool_core::ObjectId;
use pool_store::StoreView;
use pool_store::backup::{self, BackupReport, Copies};

use crate::meter::Meter;
use crate::scratch::Scratch;
use crate::{Global, output};

/// Copy a store to a directory from which it can be restored
///
/// A service may run on the store and take pushes, deletions and collections meanwhile. The next backup to the same
/// directory copies only what is new; whatever interrupts it leaves the former one whole. A backup is of one store. It has
/// the store's tokens in it (digests of their secrets), so keep it from whom the store is kept from; a directory that is made gets the
/// permissions of the store's. Nothing that this store has is collected while it is read. Exits with 1 when objects of the store
/// are found damaged: what the earlier backup has of them stays, and the rest is in this one as it is. What was copied before is not read again.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  pool backup /mnt/backups/pool --store /var/lib/pool\n  pool backup /mnt/backups/pool --store /var/lib/pool --rate 50000000"
)]
pub(crate) struct Backup {
    /// Directory of the backup: absent, empty, or that of an earlier one of this store
    #[arg(value_name = "BACKUP")]
    to: PathBuf,
    /// The store's directory
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// Read the copies of earlier backups as well, and copy anew those that are damaged
    #[arg(long)]
    verify: bool,
    /// Read so many bytes a second at most
    #[arg(long, value_name = "BYTES")]
    rate: Option<NonZeroU64>,
}

impl Backup {
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode> {
        let scratch = Scratch::new()?;
        let view = StoreView::follow(&self.store, &scratch.index())?;
        let mut meter = Meter::new(self.rate, global.json);
        let copies = if self.verify {
            Copies::Read
        } else {
            Copies::Trusted
        };
        let mut step = |progress| meter.step(progress);
        let made = backup::back_up(&view, &self.to, copies, &mut step);
        drop(meter);
        let report = made?;
        output::print_if_read(global.json, &report, text)?;
        Ok(if report.damaged_objects.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

fn text(report: &BackupReport) -> String {
    let mut out = output::pairs(&[
        ("commits", report.commits.to_string()),
        (
            "segments",
            format!(
                "{}, {} of them copied ({})",
                report.segments,
                report.copied_segments,
                output::bytes(report.copied_bytes)
            ),
        ),
        ("damaged objects", damaged(&report.damaged_objects)),
    ]);
    if !report.damaged_objects.is_empty() {
        out.push_str(
            "the store has them damaged: pool scrub says what needs them; check the disk, and push that again\n",
        );
        let has = match report.lost_objects.len() {
            0 => "all of them whole, from the earlier one".to_owned(),
            lost => format!("{lost} of them damaged as well"),
        };
        out.extend(["the backup has ", &has, "\n"]);
    }
    out
}

/// Objects, a line each, or that there are none.
pub(super) fn damaged(objects: &[ObjectId]) -> String {
    if objects.is_empty() {
        return "none".to_owned();
    }
    let lines: Vec<String> = objects.iter().map(|id| format!("\n  {id}")).collect();
    format!("{}{}", objects.len(), lines.concat())
}
