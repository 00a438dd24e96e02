//! What memory costs a program in a guest: first touch, mapping, protecting, moving; under KVM against native.
//!
//! The program times itself, so that start-up is not in the figures; native and guest runs take turns.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use pool_tests::guests;
use pool_tests::host::Host;
use pool_tests::run::{Backing, run};
use serde_json::json;

use crate::measure::{median, ratio};
use crate::write_result;

const RUNS: usize = 7;

/// Measures, and writes `memory.json`.
pub(crate) fn run_all(out: &Path) -> Result<()> {
    let host = Host::start(&out.join("memory"), &[])?;
    let built = guests::push(&host, &out.join("guests"), guests::MEMORY)?;
    let mut native = BTreeMap::new();
    let mut kvm = BTreeMap::new();
    for _ in 0..RUNS {
        note(&mut native, &built.run_natively(guests::MEMORY)?);
        let image = format!("image/{}:v1", guests::MEMORY);
        note(&mut kvm, &run(&host, &image, Backing::Pool, "kvm")?.output);
    }
    println!("memory: nanoseconds a page or a turn, kvm against native (median of {RUNS})");
    let mut figures = serde_json::Map::new();
    for (name, samples) in &kvm {
        let native = native.get(name).map_or(f64::NAN, |samples| median(samples));
        let kvm = median(samples);
        println!(
            "  {name:22} {kvm:8.0} {native:8.0}  {:.2}",
            ratio(kvm, native)
        );
        let figure = json!({ "kvm_ns": kvm, "native_ns": native, "ratio": ratio(kvm, native) });
        figures.insert(name.clone(), figure);
    }
    write_result(out, "memory", &json!({ "figures": figures, "runs": RUNS }))
}

/// Adds the figures of one run: a name and a number a line.
fn note(samples: &mut BTreeMap<String, Vec<f64>>, output: &[u8]) {
    for line in String::from_utf8_lossy(output).lines() {
        if let Some((name, Ok(value))) = line.split_once(' ').map(|(n, v)| (n, v.parse())) {
            samples.entry(name.to_owned()).or_default().push(value);
        }
    }
}
