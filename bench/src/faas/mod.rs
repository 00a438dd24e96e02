//! Many guests in a row, as a platform of functions starts them: memory at every moment for private copies,
//! for copies that the kernel's same-page merging (KSM) works on, and for the pool.

mod different;
mod functions;
mod series;

use std::path::Path;

use anyhow::Result;
use pool_core::PAGE_SIZE;
use pool_tests::host::Host;
use pool_tests::run::Backing;
use serde_json::json;

use crate::measure::ksm::Pace;
use crate::measure::{cached, median};
use crate::plot::{self, Line};
use crate::write_result;
use series::Series;

/// What guests' memory is made of, and who works on it.
#[derive(Clone, Copy, Debug)]
struct Mode {
    name: &'static str,
    backing: Backing,
    scanner: Option<Pace>,
}

/// The paces of the SoCC'25 paper (Spacer-SLT, "KSM-quiet" and "KSM-full").
const QUIET: Pace = Pace {
    pages: 100,
    sleep: 20,
};
const FULL: Pace = Pace {
    pages: 20_000,
    sleep: 1,
};
const MODES: [Mode; 5] = [
    Mode {
        name: "copy",
        backing: Backing::Copy,
        scanner: None,
    },
    Mode {
        name: "copy, KSM quiet",
        backing: Backing::Copy,
        scanner: Some(QUIET),
    },
    Mode {
        name: "copy, KSM full",
        backing: Backing::Copy,
        scanner: Some(FULL),
    },
    Mode {
        name: "pool",
        backing: Backing::Pool,
        scanner: None,
    },
    // What guests wrote is merged as it is in copies; the pool's pages are not looked at.
    Mode {
        name: "pool, KSM quiet",
        backing: Backing::Pool,
        scanner: Some(QUIET),
    },
];
/// The mode that others are held against.
const BASELINE: &str = "copy, KSM quiet";

/// Measures, and writes `faas.json` and a picture for each of the two sets of guests.
pub(crate) fn run_all(out: &Path) -> Result<()> {
    let host = Host::start(&out.join("faas-pool"), &[])?;
    let mut result = json!({});
    let mut found = functions::measure(&host, out)?;
    report(
        out,
        "functions",
        "instances of one Go function over HTTP",
        &found,
    )?;
    result["functions"] = found.iter().map(Series::to_json).collect();
    found = different::measure(&host, out)?;
    report(out, "different", "different programs", &found)?;
    result["different"] = found.iter().map(Series::to_json).collect();
    write_result(out, "faas", &result)
}

/// Prints what was found and draws it.
fn report(out: &Path, name: &str, what: &str, found: &[Series]) -> Result<()> {
    let guests = found.iter().map(Series::instances).max().unwrap_or(0);
    let title = format!("{guests} {what}");
    print(&title, found);
    let lines: Vec<_> = found
        .iter()
        .map(|series| Line {
            name: series.mode.name,
            points: series.points(),
        })
        .collect();
    plot::lines(
        &out.join(format!("faas-{name}.svg")),
        &format!("Host memory of {title}, kernel structures included"),
        "seconds since the first was started",
        "MiB of the host",
        &lines,
    )
}

fn print(title: &str, found: &[Series]) {
    println!("faas: {title}, MiB of the host");
    println!(
        "  {:<18}{:>9}{:>9}{:>9}{:>9}{:>12}{:>14}{:>12}",
        "", "at 1", "at half", "at all", "at end", "settled (s)", "ksmd (s CPU)", "first (ms)"
    );
    for series in found {
        let count = series.instances();
        let at = |instances| series.at_instances(instances).unwrap_or(0.0);
        let scanner = series
            .scanner_seconds
            .map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1}"));
        println!(
            "  {:<18}{:>9.1}{:>9.1}{:>9.1}{:>9.1}{:>12.0}{scanner:>14}{:>12.1}",
            series.mode.name,
            at(1),
            at(count / 2),
            at(count),
            series.end(),
            series.seconds(),
            median(&series.first_response_ms)
        );
    }
    let Some(baseline) = found.iter().find(|series| series.mode.name == BASELINE) else {
        return;
    };
    for pool in found
        .iter()
        .filter(|series| series.mode.backing == Backing::Pool)
    {
        println!(
            "  {} / {BASELINE}: at most {:.2} by time, at most {:.2} by instances, {:.2} at the end",
            pool.mode.name,
            pool.most_against_by_time(baseline),
            pool.most_against_by_instances(baseline),
            pool.end() / baseline.end()
        );
    }
}

/// Bytes that the kernel keeps for all guests, once what pushing has left in the page cache is dropped: the guests that read a
/// page first are charged for it, and what no guest maps counts for nobody.
fn shared_bytes(host: &Host, backing: Backing) -> Result<u64> {
    if backing != Backing::Pool {
        return Ok(0);
    }
    cached::drop_segments(host)?;
    let resident = cached::resident(host)?;
    Ok(resident.len() as u64 * PAGE_SIZE)
}
