//! First touch of a library inside a guest: 2 MiB windows against pages mapped singly.
//!
//! The same image in two pools: one that stores windows densely, one that never does. The guest
//! counts the cycles of its own first pass over the library's pages and prints them, so that
//! neither start-up nor system calls are in the figure.

use std::path::Path;

use anyhow::{Context, Result};
use pool_tests::guests;
use pool_tests::host::Host;
use pool_tests::run::{Backing, run};
use serde_json::json;

use crate::measure::{median, ratio};
use crate::write_result;

const RUNS: usize = 21;

/// Measures, and writes `touch.json`.
pub(crate) fn run_all(out: &Path) -> Result<()> {
    let dense = cycles_per_page(out, "touch-dense", 32)?;
    // No window has 513 pages, so none is dense.
    let sparse = cycles_per_page(out, "touch-sparse", 513)?;
    let result = json!({
        "windows_cycles_per_page": dense,
        "pages_cycles_per_page": sparse,
        "ratio": ratio(dense, sparse),
        "runs": RUNS,
    });
    println!("touch: first touch of an 8 MiB library in a guest, cycles a page (median of {RUNS})");
    println!(
        "  2 MiB windows {dense:.0}, 4 KiB pages {sparse:.0}: 1/{:.0}",
        ratio(sparse, dense)
    );
    write_result(out, "touch", &result)
}

fn cycles_per_page(out: &Path, name: &str, dense_from_pages: u32) -> Result<f64> {
    let threshold = dense_from_pages.to_string();
    let host = Host::start(&out.join(name), &["--dense-from-pages", &threshold])?;
    guests::push(&host, &out.join("guests"), guests::TOUCH)?;
    let mut samples = Vec::new();
    for _ in 0..RUNS {
        let run = run(&host, "image/touch8m:v1", Backing::Pool, "kvm")?;
        let text = String::from_utf8_lossy(&run.errors);
        let cycles = text.lines().find_map(|line| {
            line.strip_prefix("first pass: ")?
                .split(' ')
                .next()?
                .parse()
                .ok()
        });
        samples.push(cycles.with_context(|| format!("the guest gave no figure:\n{text}"))?);
    }
    Ok(median(&samples))
}
