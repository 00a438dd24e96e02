//! Reading the clock in a guest against reading it natively.

use std::path::Path;

use anyhow::{Context, Result};
use pool_tests::guests;
use pool_tests::host::Host;
use pool_tests::run::{Backing, run};
use serde_json::json;

use crate::measure::{median, ratio};
use crate::write_result;

const RUNS: usize = 11;

/// Measures, and writes `clock.json`.
pub(crate) fn run_all(out: &Path) -> Result<()> {
    let host = Host::start(&out.join("clock-pool"), &[])?;
    let guests = guests::push(&host, &out.join("guests"), guests::CLOCK)?;
    let image = format!("image/{}:v1", guests::CLOCK);
    let (mut native, mut kvm, mut process) = (vec![], vec![], vec![]);
    for _ in 0..RUNS {
        native.push(nanoseconds(&guests.run_natively(guests::CLOCK)?)?);
        kvm.push(nanoseconds(
            &run(&host, &image, Backing::Pool, "kvm")?.output,
        )?);
        process.push(nanoseconds(
            &run(&host, &image, Backing::Pool, "process")?.output,
        )?);
    }
    let (native, kvm, process) = (median(&native), median(&kvm), median(&process));
    println!("clock: nanoseconds a clock_gettime (median of {RUNS} runs of a million)");
    println!(
        "  native {native:.1}, kvm {kvm:.1} ({:.2}), process {process:.1} ({:.2})",
        ratio(kvm, native),
        ratio(process, native)
    );
    let result = json!({
        "native_ns": native,
        "kvm_ns": kvm,
        "process_ns": process,
        "kvm_ratio": ratio(kvm, native),
        "process_ratio": ratio(process, native),
        "runs": RUNS,
    });
    write_result(out, "clock", &result)
}

fn nanoseconds(output: &[u8]) -> Result<f64> {
    let text = String::from_utf8_lossy(output);
    let figure = text
        .strip_prefix("a reading: ")
        .and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
    Ok(figure.with_context(|| format!("the guest gave no figure:\n{text}"))? / 1000.0)
}
