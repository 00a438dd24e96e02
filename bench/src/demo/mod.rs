//! The whole job once, on real programs: link, push, mount, run, measure, collect.

mod figures;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use pool_tests::guests::{self, Guests, PROGRAMS, Paused};
use pool_tests::host::Host;
use pool_tests::run::{Backing, run};
use pool_tests::wait;
use serde_json::Value;

use crate::fleet::{Fleet, FleetMemory};
use crate::measure::median;
use crate::plot::{self, Line};
use figures::{Collection, Comparison, Instances, Pages, Program, Report, Upload};

/// Instances of one image.
const IDENTICAL: usize = 64;
/// Runs behind a median.
const RUNS: usize = 21;
/// Counts of instances at which memory is looked at.
const STEPS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
/// The image of which many instances run.
const MANY: &str = "sqlite-workload";

/// Runs the demo and leaves `report.json`, `memory.svg` and the linked programs in `out`.
pub(crate) fn demo(out: &Path) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    let out = &out.canonicalize()?;
    say("starting a pool: poolsvc, and poolfs mounted");
    let host = Host::start(&out.join("pool"), &[])?;
    say("compiling guest programs and libraries, linking them at registered addresses");
    let guests = guests::build(&host, &out.join("guests"), &PROGRAMS)?;

    let mut report = Report::default();
    say(
        "pushing; what is sent are pages that the pool lacks, and the digests of what is not in its libraries",
    );
    push(&host, &guests, &mut report)?;
    say("running each program natively, on both platforms and both backings");
    for name in PROGRAMS {
        report
            .programs
            .push(compare_with_native(&host, &guests, name)?);
    }
    say(&format!(
        "starting {IDENTICAL} instances of {MANY}, then one of each"
    ));
    let curves = identical(&host, &mut report.identical)?;
    different(&host, &mut report.different)?;
    say("collecting under a running guest");
    report.gc = collect_under_a_guest(&host, &guests)?;

    plot::lines(
        &out.join("memory.svg"),
        &format!("Host memory of {MANY} guests, kernel structures included"),
        "guests running",
        "MiB of the host",
        &curves,
    )?;
    let json = serde_json::to_vec_pretty(&report).context("writing the report")?;
    fs::write(out.join("report.json"), json).context("writing the report")?;
    println!("{report}");
    println!("report     {}", out.join("report.json").display());
    println!("picture    {}", out.join("memory.svg").display());
    ensure!(
        report.gc.guest_undisturbed,
        "a guest that ran while its pool was collected printed something else than natively"
    );
    Ok(())
}

fn say(what: &str) {
    println!("==> {what}");
}

fn number(value: &Value, pointer: &str) -> Result<u64> {
    value
        .pointer(pointer)
        .and_then(Value::as_u64)
        .with_context(|| format!("no number at {pointer} in {value}"))
}

fn push(host: &Host, guests: &Guests, report: &mut Report) -> Result<()> {
    let mut upload = Upload::default();
    for name in PROGRAMS {
        let elf = guests.linked(name);
        let path = elf.to_str().context("the output path is not UTF-8")?;
        let pushed = host.pool(&["push", "image", path, "--name", name, "--tag", "v1"])?;
        let sent = number(&pushed, "/sent_bytes")?;
        let size = fs::metadata(&elf)?.len();
        println!(
            "    {name:<16} {:>6} KiB, sent {:>6} KiB",
            size / 1024,
            sent / 1024
        );
        upload.elf_bytes += size;
        upload.sent_bytes += sent;
    }
    report.upload = upload;
    let stats = host.pool(&["stats"])?;
    report.pages = Pages {
        pushed: number(&stats, "/referenced_pages")?,
        stored: number(&stats, "/stored_pages")?,
    };
    Ok(())
}

fn compare_with_native(host: &Host, guests: &Guests, name: &str) -> Result<Program> {
    let native = guests.run_natively(name)?;
    let image = format!("image/{name}:v1");
    let mut program = Program {
        image: image.clone(),
        equal: Vec::new(),
    };
    for platform in ["kvm", "process"] {
        for backing in Backing::ALL {
            let guest = run(host, &image, backing, platform)?;
            ensure!(
                guest.status.success() && guest.output == native,
                "{image} on {platform}/{} ended with {} and printed\n{}\ninstead of\n{}",
                backing.name(),
                guest.status,
                String::from_utf8_lossy(&guest.output),
                String::from_utf8_lossy(&native)
            );
            program.equal.push(format!("{platform}/{}", backing.name()));
        }
    }
    Ok(program)
}

/// Adds what single runs of `images` cost.
fn add_runs(host: &Host, images: &[String], backing: Backing, into: &mut Instances) -> Result<()> {
    let (mut start, mut end, mut faults, mut guest) = (vec![], vec![], vec![], vec![]);
    for round in 0..RUNS.max(images.len()) {
        let run = run(host, &images[round % images.len()], backing, "kvm")?;
        start.push(run.number("/microseconds/first_instruction"));
        end.push(run.number("/microseconds/end"));
        faults.push(run.number("/host/minor_faults") + run.number("/host/major_faults"));
        guest.push(run.number("/guest_faults"));
    }
    into.start_us = median(&start);
    into.run_us = median(&end);
    into.host_faults = median(&faults);
    into.guest_faults = median(&guest);
    Ok(())
}

fn add_memory(into: &mut Instances, first: FleetMemory, all: FleetMemory) {
    let count = all.instances as u64;
    into.bytes_per_instance = all.charged / count;
    into.pss_per_instance = all.pss / count;
    let further = (all.instances - first.instances) as u64;
    let growth = all.charged.saturating_sub(first.charged);
    into.bytes_per_further_instance = growth.checked_div(further).unwrap_or(0);
}

fn identical(host: &Host, comparison: &mut Comparison) -> Result<Vec<Line>> {
    let image = format!("image/{MANY}:v1");
    comparison.instances = IDENTICAL;
    comparison.images = vec![image.clone()];
    let mut curves = Vec::new();
    for backing in Backing::ALL {
        let mut figures = Instances::default();
        let mut fleet = Fleet::new()?;
        let mut points = vec![(0.0, 0.0)];
        let mut seen = Vec::new();
        for count in 1..=IDENTICAL {
            fleet.add(host, &image, backing, "kvm")?;
            if STEPS.contains(&count) {
                let memory = fleet.memory()?;
                points.push((count as f64, memory.charged as f64 / f64::from(1 << 20)));
                seen.push(memory);
            }
        }
        drop(fleet);
        add_memory(&mut figures, seen[0], seen[seen.len() - 1]);
        add_runs(host, std::slice::from_ref(&image), backing, &mut figures)?;
        let name = match backing {
            Backing::Copy => "a copy in each guest",
            Backing::Pool => "mapped from the pool",
        };
        curves.push(Line { name, points });
        store(comparison, backing, figures);
    }
    Ok(curves)
}

fn different(host: &Host, comparison: &mut Comparison) -> Result<()> {
    comparison.images = PROGRAMS
        .iter()
        .map(|name| format!("image/{name}:v1"))
        .collect();
    comparison.instances = comparison.images.len();
    for backing in Backing::ALL {
        let mut figures = Instances::default();
        let mut fleet = Fleet::new()?;
        let mut first = FleetMemory::default();
        for image in &comparison.images {
            fleet.add(host, image, backing, "kvm")?;
            if first.instances == 0 {
                first = fleet.memory()?;
            }
        }
        let all = fleet.memory()?;
        drop(fleet);
        add_memory(&mut figures, first, all);
        add_runs(host, &comparison.images.clone(), backing, &mut figures)?;
        store(comparison, backing, figures);
    }
    Ok(())
}

fn store(comparison: &mut Comparison, backing: Backing, figures: Instances) {
    match backing {
        Backing::Copy => comparison.copy = figures,
        Backing::Pool => comparison.pool = figures,
    }
}

/// Deletes every image while one of them is held running, collects, lets it end, collects again.
fn collect_under_a_guest(host: &Host, guests: &Guests) -> Result<Collection> {
    let native = guests.run_natively(MANY)?;
    let image = format!("image/{MANY}:v1");
    let running = Paused::start(host, &image, "kvm")?;
    for name in PROGRAMS {
        host.pool(&["rm", &format!("image/{name}:v1")])?;
    }
    let collect = || host.pool(&["gc", "--grace", "0"]);
    let collect_all = || {
        collect()?;
        number(&host.pool(&["stats"])?, "/stored_pages")
    };
    let before = host.segment_disk_bytes()?;
    let first = collect()?;
    let during = host.segment_disk_bytes()?;
    let output = running.finish()?;
    // The kernel tells poolfs of a close some time after it.
    wait::until_some("the ended guest's lease to go", || match collect_all() {
        Ok(0) => Some(Ok(())),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    })?;
    let after = host.segment_disk_bytes()?;
    Ok(Collection {
        freed_bytes_while_running: before.saturating_sub(during),
        leased_bytes_while_running: during,
        freed_bytes: before.saturating_sub(after),
        libraries: first
            .pointer("/libraries")
            .and_then(Value::as_array)
            .map_or(0, Vec::len) as u64,
        guest_undisturbed: output == native,
    })
}
