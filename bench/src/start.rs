//! Start-up: from exec to the first instruction, to all of an 8 MiB library touched, and what an
//! instance costs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use pool_tests::guests;
use pool_tests::host::Host;
use pool_tests::run::{Backing, monotonic_ns, run};
use pool_tests::source_directory;
use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::measure::{median, ratio};
use crate::plot::{self, Line};
use crate::write_result;

const RUNS: usize = 31;
const INSTANCES: usize = 64;
const STEPS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
const IMAGE: &str = "image/touch8m:v1";

/// Measures, and writes `start.json` and `start.svg`.
pub(crate) fn run_all(out: &Path) -> Result<()> {
    let host = Host::start(&out.join("start-pool"), &[])?;
    guests::push(&host, &out.join("guests"), guests::TOUCH)?;
    let mut floor = Floor::build(out)?;
    let mut result = json!({});
    let mut curves = Vec::new();
    for backing in Backing::ALL {
        let (figures, points) = measure(&host, backing, &mut floor)?;
        result[backing.name()] = figures;
        curves.push(Line {
            name: backing.name(),
            points,
        });
    }
    result["floor_us"] = json!(median(&floor.samples));
    result["floor_least_us"] = json!(least(&floor.samples));
    print(&result);
    plot::lines(
        &out.join("start.svg"),
        "Memory of N instances that touched an 8 MiB library",
        "instances",
        "MiB",
        &curves,
    )?;
    write_result(out, "start", &result)
}

/// The smallest C program that runs one instruction of a guest, `bench/floor.c`.
struct Floor {
    program: PathBuf,
    /// Microseconds from before it was started to after that instruction.
    samples: Vec<f64>,
}

impl Floor {
    fn build(out: &Path) -> Result<Self> {
        let program = out.join("floor");
        let status = Command::new("cc")
            .args(["-O2", "-static", "-o"])
            .arg(&program)
            .arg(source_directory().join("bench/floor.c"))
            .status()
            .context("starting cc")?;
        ensure!(
            status.success(),
            "compiling bench/floor.c failed: see above"
        );
        Ok(Self {
            program,
            samples: Vec::new(),
        })
    }

    fn run(&mut self) -> Result<()> {
        let output = Command::new(&self.program)
            .arg(monotonic_ns().to_string())
            .output()
            .context("starting the floor")?;
        let printed = String::from_utf8_lossy(&output.stdout);
        let microseconds = printed
            .trim()
            .parse()
            .with_context(|| format!("the floor: {}", String::from_utf8_lossy(&output.stderr)))?;
        self.samples.push(microseconds);
        Ok(())
    }
}

fn measure(host: &Host, backing: Backing, floor: &mut Floor) -> Result<(Value, Vec<(f64, f64)>)> {
    let (mut first, mut touched, mut faults) = (vec![], vec![], vec![]);
    for _ in 0..RUNS {
        floor.run()?;
        let run = run(host, IMAGE, backing, "kvm")?;
        first.push(run.number("/microseconds/first_instruction"));
        touched.push(run.number("/microseconds/end"));
        faults.push(run.number("/host/minor_faults"));
    }
    let mut fleet = Fleet::new()?;
    let mut points = vec![(0.0, 0.0)];
    let mut charged = Vec::new();
    for count in 1..=INSTANCES {
        fleet.add(host, IMAGE, backing, "kvm")?;
        if STEPS.contains(&count) {
            let memory = fleet.memory()?;
            points.push((count as f64, memory.charged as f64 / f64::from(1 << 20)));
            charged.push(memory);
        }
    }
    let (one, all) = (charged[0], charged[charged.len() - 1]);
    let further = (all.charged.saturating_sub(one.charged)) / (INSTANCES as u64 - 1);
    let figures = json!({
        "first_instruction_us": median(&first),
        "first_instruction_least_us": least(&first),
        "touched_us": median(&touched),
        "host_faults": median(&faults),
        "kib_per_instance": all.charged / 1024 / INSTANCES as u64,
        "kib_per_further_instance": further / 1024,
        "written_kib_per_instance": all.anonymous / 1024 / INSTANCES as u64,
        "kernel_kib_per_instance": all.charged.saturating_sub(all.anonymous) / 1024 / INSTANCES as u64,
        "pss_kib_per_instance": all.pss / 1024 / INSTANCES as u64,
        "instances": INSTANCES,
        "runs": RUNS,
    });
    Ok((figures, points))
}

/// The fastest run: the one that other load has disturbed least.
fn least(samples: &[f64]) -> f64 {
    samples.iter().copied().fold(f64::INFINITY, f64::min)
}

fn print(result: &Value) {
    println!("start: a guest that touches an 8 MiB library (median of {RUNS} runs)");
    println!("  {:<34}{:>10}{:>10}{:>9}", "", "copy", "pool", "ratio");
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    let floor = number(&result["floor_us"]);
    let pool = &result["pool"];
    println!(
        "  the least C program that runs an instruction: {floor:.0} us; the pool takes {:.2} of it, \
         and {:.2} by the fastest run of each",
        ratio(number(&pool["first_instruction_us"]), floor),
        ratio(
            number(&pool["first_instruction_least_us"]),
            number(&result["floor_least_us"])
        )
    );
    for (name, key) in [
        ("exec to first instruction (us)", "first_instruction_us"),
        ("exec to 8 MiB touched, ended (us)", "touched_us"),
        ("page faults of the host's side", "host_faults"),
        ("KiB an instance, of 64", "kib_per_instance"),
        ("KiB a further instance", "kib_per_further_instance"),
        ("  written by guest and VMM", "written_kib_per_instance"),
        ("  the kernel's part, caches", "kernel_kib_per_instance"),
        ("KiB an instance, PSS", "pss_kib_per_instance"),
    ] {
        let of = |backing: &str| number(&result[backing][key]);
        let (copy, pool) = (of("copy"), of("pool"));
        println!(
            "  {name:<34}{copy:>10.0}{pool:>10.0}{:>9.3}",
            ratio(pool, copy)
        );
    }
}
