//! `pool stats`: the state of the store in numbers.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use pool_api::types::Stats as Figures;
use pool_core::page::PageCount;

use crate::{Global, output, server};

/// Show how much is kept, and how much keeping it once saves
#[derive(Debug, Args)]
pub(crate) struct Stats {}

impl Stats {
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode> {
        let Self {} = self;
        let stats = server::client(global)?.stats()?;
        output::print(global.json, &stats, text)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn text(figures: &Figures) -> String {
    let store = &figures.store;
    let pages = |count: PageCount| {
        let size = count.checked_bytes().unwrap_or(u64::MAX);
        format!("{} ({})", count.0, output::bytes(size))
    };
    let stored = store.stored_pages.0.max(1) as f64;
    let quotas = figures.quotas.iter();
    let quotas = quotas.map(|quota| {
        let used = quota.used_bytes.map(output::bytes);
        let used = used.unwrap_or_else(|| "what cannot be counted".into());
        let bytes = output::bytes(quota.bytes);
        (
            "quota",
            format!("{used} of {bytes} under {}*", quota.prefix),
        )
    });
    let mut lines = vec![
        (
            "images",
            format!("{} under {} tags", store.images, store.tags),
        ),
        (
            "library versions",
            format!("{}, {} unused", store.libraries, store.unused_libraries),
        ),
        (
            "objects",
            format!("{} ({})", store.objects, output::bytes(store.object_bytes)),
        ),
        ("pages referred to", pages(store.referenced_pages)),
        ("pages stored", pages(store.stored_pages)),
        (
            "sharing",
            format!("{:.2}x", store.referenced_pages.0 as f64 / stored),
        ),
        (
            "dense windows",
            format!(
                "{} of 2 MiB, from {} pages on",
                store.dense_windows, figures.dense_from_pages
            ),
        ),
        (
            "segments",
            format!(
                "{}, {} waiting for leases",
                store.segments, store.retired_segments
            ),
        ),
        ("disk", output::bytes(store.disk_bytes)),
        ("damaged pages", figures.damaged_pages.to_string()),
        (
            "last scrubbed",
            figures
                .scrubbed_at
                .map_or_else(|| "never".into(), output::age),
        ),
        ("uploads under way", figures.uploads.to_string()),
        ("collections", store.epoch.to_string()),
    ];
    lines.extend(quotas);
    let not_counted = store.not_counted.iter();
    lines.extend(not_counted.map(|what| ("not counted", what.clone())));
    output::pairs(&lines)
}
