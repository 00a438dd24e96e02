//! `pool restore`: a store from a backup.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use pool_gc::{FsckLevel, FsckReport};
use pool_store::backup::{self, Damaged, RestoreReport};
use serde::Serialize;

use super::backup::damaged;
use super::fsck;
use crate::meter::Meter;
use crate::{Global, output};

/// Make a store from a backup
///
/// In a directory that is absent or empty. Every page is compared with its digest on the way, and the new store is checked as by
/// pool fsck. It is a store of its own: a later backup of it needs a directory of its own. Where the backup is damaged
/// no store is made, unless --damaged says otherwise; the report names the objects. Exits with 1 then.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  pool restore /mnt/backups/pool --store /var/lib/pool\n  pool restore /mnt/backups/pool --dry-run"
)]
pub(crate) struct Restore {
    /// Directory of the backup
    #[arg(value_name = "BACKUP")]
    from: PathBuf,
    /// Make the store in this directory
    #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
    store: Option<PathBuf>,
    /// Read all of the backup and say whether it is whole; make nothing
    #[arg(long, conflicts_with = "store")]
    dry_run: bool,
    /// Make a store even of a damaged backup, with the damaged pages as they are
    #[arg(long, conflicts_with = "dry_run")]
    damaged: bool,
    /// Read so many bytes a second at most
    #[arg(long, value_name = "BYTES")]
    rate: Option<NonZeroU64>,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Outcome {
    #[serde(flatten)]
    restored: RestoreReport,
    /// What a check of the new store found; absent when none was made.
    fsck: Option<FsckReport>,
}

impl Restore {
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode> {
        let mut meter = Meter::new(self.rate, global.json);
        let mut step = |progress| meter.step(progress);
        let restored = match &self.store {
            Some(directory) => {
                let damaged = if self.damaged {
                    Damaged::TakenOver
                } else {
                    Damaged::Refused
                };
                backup::restore(&self.from, directory, damaged, &mut step)
            }
            None => backup::verify(&self.from, &mut step),
        };
        drop(meter);
        let restored = restored?;
        let checked = match &self.store {
            Some(directory) if restored.made => {
                let checked = fsck::check(directory, FsckLevel::Index);
                Some(checked.context("checking the store that was made")?)
            }
            _ => None,
        };
        let outcome = Outcome {
            restored,
            fsck: checked,
        };
        output::print_if_read(global.json, &outcome, |outcome| self.text(outcome))?;
        let is_sound = outcome.fsck.as_ref().is_none_or(FsckReport::is_sound);
        Ok(if is_sound && outcome.restored.damaged_objects.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn text(&self, outcome: &Outcome) -> String {
        let report = &outcome.restored;
        let result = match &self.store {
            Some(directory) if report.made => format!("a store in {}", directory.display()),
            Some(_) => "no store, because of what is damaged (see --damaged)".to_owned(),
            None if report.damaged_objects.is_empty() => "the backup is whole".to_owned(),
            None => "the backup is damaged (pool backup --verify copies anew what the store has)"
                .to_owned(),
        };
        let mut out = output::pairs(&[
            ("images", report.images.to_string()),
            ("library versions", report.libraries.to_string()),
            ("objects", report.objects.to_string()),
            ("pages", report.pages.to_string()),
            ("segments", report.segments.to_string()),
            ("commits", report.commits.to_string()),
            ("damaged objects", damaged(&report.damaged_objects)),
            ("result", result),
        ]);
        let findings = outcome.fsck.iter().flat_map(|report| &report.findings);
        for finding in findings {
            out += &fsck::line(finding);
        }
        out
    }
}
