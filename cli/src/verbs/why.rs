//! `pool why`: what keeps a thing.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use pool_core::name::Referent;
use pool_gc::Why as Answer;

use crate::{Global, output, server};

/// Show what keeps an object, a page or a segment: names and leases
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  pool why lib/zlib@1.3\n  pool why /pool/segments/0000002a")]
pub(crate) struct Why {
    /// What to ask about
    #[arg(value_parser = crate::referent::parse)]
    referent: Referent,
}

impl Why {
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode> {
        let answer = server::client(global)?.why(&self.referent)?;
        output::print(global.json, &answer, text)?;
        Ok(ExitCode::SUCCESS)
    }
}

pub(super) fn text(answer: &Answer) -> String {
    // Writing to a string cannot fail.
    let mut out = String::new();
    if let Some(segment) = answer.segment {
        let leased = if answer.segment_leased {
            ", leased"
        } else {
            ""
        };
        let _ = writeln!(out, "in segment {segment}{leased}");
    }
    if answer.objects.is_empty() {
        out.push_str("no object needs it: the next collection takes it\n");
    }
    for (id, keepers) in &answer.objects {
        let _ = writeln!(out, "object {id}");
        for library in &keepers.libraries {
            let pinned = if keepers.pinned.contains(library) {
                ", pinned"
            } else {
                ""
            };
            let _ = writeln!(out, "  is lib/{library}{pinned}");
        }
        for image in &keepers.images {
            let _ = writeln!(out, "  is needed by image/{image}");
        }
        if keepers.leased {
            out.push_str("  is leased: somebody maps it or has it open\n");
        }
        if keepers.is_empty() {
            out.push_str("  is needed by nothing: the next collection takes it\n");
        }
    }
    out
}
