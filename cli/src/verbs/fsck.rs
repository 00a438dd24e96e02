//! `pool fsck`: is everything there, and is it what it says?

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use pool_gc::{Finding, FsckLevel, FsckReport};
use pool_store::StoreView;

use crate::scratch::Scratch;
use crate::{Global, output, server};

/// Check the store of a service, or one on disk
///
/// Superblock, mark, index and journal are opened and read anew, and index and journal compared with each other, record by record; then
/// the parts of the index, and the sizes of segments. Changes nothing. Exits with 1 when there is damage.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  pool fsck\n  pool fsck --store /var/lib/pool --content")]
pub(crate) struct Fsck {
    /// Check the store in this directory, whether a service runs on it or not
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Read every page, too, and compare it with its digest
    #[arg(long)]
    content: bool,
}

impl Fsck {
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode> {
        let report = match &self.store {
            Some(directory) => check(
                directory,
                if self.content {
                    FsckLevel::Content
                } else {
                    FsckLevel::Index
                },
            )?,
            None => server::client(global)?.fsck(self.content)?,
        };
        output::print_if_read(global.json, &report, text)?;
        Ok(if report.is_sound() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// Checks the store in a directory.
pub(super) fn check(directory: &Path, level: FsckLevel) -> Result<FsckReport> {
    let scratch = Scratch::new()?;
    let view = StoreView::follow(directory, &scratch.index())?;
    Ok(pool_gc::fsck(&view, level))
}

fn text(report: &FsckReport) -> String {
    let mut out = output::pairs(&[
        ("segments", report.segments.to_string()),
        ("objects", report.objects.to_string()),
        ("pages", report.pages.to_string()),
        ("windows", report.windows.to_string()),
        (
            "findings",
            match report.findings.len() {
                0 => "none: the store is sound".to_owned(),
                count => count.to_string(),
            },
        ),
    ]);
    for finding in &report.findings {
        out += &line(finding);
    }
    out
}

/// What is wrong, and what to do about it.
pub(super) fn line(finding: &Finding) -> String {
    let severity = format!("{:?}", finding.severity).to_lowercase();
    format!("{severity}: {}\n  {}\n", finding.what, finding.advice)
}
