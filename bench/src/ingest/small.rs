//! Small commits: libraries of three new pages, by one writer and by several at once.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use pool_core::page::PAGE_SIZE;
use pool_store::Store;
use pool_store::placement::Placement;
use serde::Serialize;

use super::{new_store, push};
use crate::measure::pushing::{at_once, fresh};
use crate::measure::{median, ratio};

/// Writers at once, in each case.
const WRITERS: [u32; 3] = [1, 4, 16];
/// Commits of a case in a round, by all its writers together.
const COMMITS: u32 = 96;
/// How often each case is measured; the median counts.
const ROUNDS: u32 = 7;
/// Pages of a library.
const PAGES: usize = 3;

/// One case.
#[derive(Clone, Copy, Debug, Serialize)]
struct Case {
    writers: u32,
    /// Commits a second.
    commits: f64,
    /// Against one writer.
    ratio: f64,
    /// Changes of the index that were made durable, for each commit.
    batches: f64,
}

/// Every case.
#[derive(Clone, Debug, Serialize)]
pub(super) struct SmallCommits {
    cases: Vec<Case>,
}

impl SmallCommits {
    pub(super) fn print(&self) {
        println!(
            "ingest: small commits a second, against one writer's (median of {ROUNDS}), and durable changes of the index \
             for each"
        );
        for case in &self.cases {
            println!(
                "  {:>2} writers{:>10.0}{:>8.2}{:>8.2}",
                case.writers, case.commits, case.ratio, case.batches
            );
        }
    }
}

/// Measures in a new store in `directory`, which it leaves there.
pub(super) fn measure(directory: &Path) -> Result<SmallCommits> {
    let store = new_store(directory)?;
    let (mut speeds, mut batches) = (WRITERS.map(|_| vec![]), WRITERS.map(|_| vec![]));
    for round in 0..ROUNDS {
        for (case, writers) in WRITERS.into_iter().enumerate() {
            let before = store.generation()?;
            let since = Instant::now();
            commit(&store, round, writers)?;
            speeds[case].push(f64::from(COMMITS) / since.elapsed().as_secs_f64());
            batches[case].push((store.generation()? - before) as f64 / f64::from(COMMITS));
        }
    }
    let one = median(&speeds[0]);
    let cases = WRITERS.into_iter().zip(speeds.iter().zip(&batches));
    let cases = cases.map(|(writers, (speeds, batches))| {
        let commits = median(speeds);
        Case {
            writers,
            commits,
            ratio: ratio(commits, one),
            batches: median(batches),
        }
    });
    Ok(SmallCommits {
        cases: cases.collect(),
    })
}

/// Has `writers` threads commit [`COMMITS`] libraries that nobody has.
fn commit(store: &Store, round: u32, writers: u32) -> Result<()> {
    at_once(writers.into(), |writer| {
        let name = format!("l{writers}-{writer}-{round}");
        let mut bytes = [0; PAGES * PAGE_SIZE as usize];
        for nth in 0..COMMITS / writers {
            fresh(
                &[writers.into(), writer, round.into(), nth.into()],
                &mut bytes,
            );
            push(store, &name, nth, &bytes, Placement::Sparse)?;
        }
        Ok(())
    })
}
