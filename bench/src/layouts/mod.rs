//! 20 programs, added one by one in an order that a seed decides, linked in each layout of `pool link --pool-layout`: what they
//! share, counted by contents, and what of it is in memory with one of each running.

mod image;

use std::collections::HashSet;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use pool_core::{PAGE_SIZE, PageId};
use pool_image::layout::LayoutKind;
use pool_tests::host::Host;
use pool_tests::run::Backing;
use serde_json::{Value, json};

use crate::apps;
use crate::fleet::Fleet;
use crate::measure::cached::{self, Slots};
use crate::measure::ratio;
use crate::plot::{self, Line};
use crate::programs::{self, ENDING, Program, WAITING};
use crate::servers::Files;
use crate::write_result;
use image::Image;

/// Decides the order.
const SEED: &str = "layouts 1";
/// What others are held against, and where in the order they are looked at.
const BASELINE: LayoutKind = LayoutKind::Default;
const STEPS: [usize; 4] = [1, 5, 10, 20];
const MIB: f64 = (1 << 20) as f64;
/// Memory holds still when it did not change for so many looks.
const QUIET: usize = 8;
const LOOK: Duration = Duration::from_millis(250);
/// No longer than that.
const MOST_LOOKS: usize = 240;

/// Bytes with the first programs of the order.
#[derive(Clone, Copy, Debug, Default)]
struct Bytes {
    /// Of libraries: code and constants.
    libraries: u64,
    /// Those, and the programs' own code, constants and initial data.
    all: u64,
}

/// What was found of one layout.
struct Found {
    kind: LayoutKind,
    /// By number of programs: pages of different contents.
    distinct: Vec<Bytes>,
    /// By number of programs, one of each running: pages of the pool that are in memory.
    resident: Vec<Bytes>,
    /// In the end: what the kernel charges to the guests, the pool's pages included.
    charged: u64,
}

/// Measures, and writes `layouts.json` and two pictures.
pub(crate) fn run_all(out: &Path) -> Result<()> {
    let programs = order();
    let names: Vec<&str> = programs.iter().map(|(name, _)| *name).collect();
    let linked = apps::build(out, &["--layouts"], &names)?;
    let found: Vec<Found> = LayoutKind::ALL
        .into_iter()
        .map(|kind| measure(kind, out, &linked, &programs))
        .collect::<Result<_>>()?;
    print(&found);
    for (name, title, of) in [
        (
            "distinct",
            "Pages of libraries with different contents",
            (|found| &found.distinct) as fn(&Found) -> &Vec<Bytes>,
        ),
        (
            "resident",
            "Pages of libraries in memory, one of each program running",
            |found| &found.resident,
        ),
    ] {
        let lines: Vec<Line> = found
            .iter()
            .map(|found| Line {
                name: found.kind.name(),
                points: points(of(found)),
            })
            .collect();
        let path = out.join(format!("layouts-{name}.svg"));
        plot::lines(&path, title, "programs", "MiB", &lines)?;
    }
    let result = json!({
        "order": names,
        "layouts": found.iter().map(|of| of.to_json(&found[0])).collect::<Vec<_>>(),
    });
    write_result(out, "layouts", &result)
}

/// The programs in the order of the seed.
fn order() -> Vec<Program> {
    let mut programs: Vec<Program> = WAITING.into_iter().chain(ENDING).collect();
    programs.sort_by_key(|(name, _)| *blake3::hash(format!("{SEED} {name}").as_bytes()).as_bytes());
    programs
}

fn measure(kind: LayoutKind, out: &Path, linked: &Path, programs: &[Program]) -> Result<Found> {
    println!("layouts: {}", kind.name());
    let images: Vec<Image> = programs
        .iter()
        .map(|(name, _)| Image::read(linked, name, kind))
        .collect::<Result<_>>()?;
    let mut seen = [HashSet::new(), HashSet::new()];
    let distinct = images.iter().map(|image| {
        seen[0].extend(image.libraries());
        seen[1].extend(image.all());
        Bytes {
            libraries: size(&seen[0]),
            all: size(&seen[1]),
        }
    });
    let distinct = distinct.collect();
    let host = Host::start(&out.join(format!("layouts-{}", kind.name())), &[])?;
    for ((name, _), image) in programs.iter().zip(&images) {
        let path = image.path.to_str().context("the path is not UTF-8")?;
        host.pool(&["push", "image", path, "--name", name, "--tag", "v1"])?;
    }
    let (resident, charged) = run(&host, programs, &images)?;
    Ok(Found {
        kind,
        distinct,
        resident,
        charged,
    })
}

fn size(pages: &HashSet<PageId>) -> u64 {
    pages.len() as u64 * PAGE_SIZE
}

/// Starts one of each, and looks each time at what is in memory of the pages that any of them refers to.
fn run(host: &Host, programs: &[Program], images: &[Image]) -> Result<(Vec<Bytes>, u64)> {
    let slots: Vec<(Slots, Slots)> = programs
        .iter()
        .zip(images)
        .map(|((name, _), image)| image.slots(host, name))
        .collect::<Result<_>>()?;
    // What it takes in waits in the kernel's queue.
    let silent = TcpListener::bind("127.0.0.1:0").context("listening")?;
    let address = silent.local_addr()?;
    cached::drop_segments(host)?;
    let mut fleet = Fleet::new()?;
    let mut kept = Vec::new();
    let mut referred = (Slots::new(), Slots::new());
    let mut found = Vec::new();
    for (program, (libraries, all)) in programs.iter().zip(slots) {
        let files = Files::new()?;
        let (output, reader) = full_pipe()?;
        let around = (&files, address);
        programs::start(
            &mut fleet,
            host,
            Backing::Pool,
            *program,
            around,
            Stdio::from(output),
        )?;
        kept.push((files, reader));
        referred.0.extend(libraries);
        referred.1.extend(all);
        found.push(settled(host, &fleet, &referred)?);
    }
    fleet.check()?;
    let charged = fleet.held()?;
    Ok((found, charged))
}

/// What is in memory, once that and the guests' own memory holds still.
fn settled(host: &Host, fleet: &Fleet, (libraries, all): &(Slots, Slots)) -> Result<Bytes> {
    let mut last = (0, Bytes::default());
    let mut still = 0;
    for _ in 0..MOST_LOOKS {
        let resident = cached::resident(host)?;
        let in_memory = |of: &Slots| of.intersection(&resident).count() as u64 * PAGE_SIZE;
        let now = Bytes {
            libraries: in_memory(libraries),
            all: in_memory(all),
        };
        let held = fleet.held()?;
        let is_still = (held, now.all, now.libraries) == (last.0, last.1.all, last.1.libraries);
        still = if is_still { still + 1 } else { 0 };
        last = (held, now);
        if still == QUIET {
            break;
        }
        thread::sleep(LOOK);
    }
    Ok(last.1)
}

/// A pipe that takes no more: who writes to the first waits as long as the second is open.
fn full_pipe() -> Result<(OwnedFd, OwnedFd)> {
    use rustix::fs::{OFlags, fcntl_setfl};
    use rustix::pipe::{PipeFlags, pipe_with};
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).context("making a pipe")?;
    fcntl_setfl(&writer, OFlags::NONBLOCK)?;
    for length in [PAGE_SIZE as usize, 1] {
        while rustix::io::write(&writer, &vec![b'.'; length]).is_ok() {}
    }
    fcntl_setfl(&writer, OFlags::empty())?;
    Ok((writer, reader))
}

fn points(bytes: &[Bytes]) -> Vec<(f64, f64)> {
    let counts = (1..).map(f64::from);
    counts
        .zip(bytes.iter().map(|bytes| bytes.libraries as f64 / MIB))
        .collect()
}

impl Found {
    fn to_json(&self, baseline: &Self) -> Value {
        let series = |of: &[Bytes]| -> Value {
            let of = of.iter().map(|bytes| json!([bytes.libraries, bytes.all]));
            of.collect()
        };
        json!({
            "layout": self.kind.name(),
            "distinct_bytes_of_libraries_and_all": series(&self.distinct),
            "resident_bytes_of_libraries_and_all": series(&self.resident),
            "charged_bytes": self.charged,
            "distinct_ratio": ratio(last(&self.distinct).libraries as f64, last(&baseline.distinct).libraries as f64),
            "resident_ratio": ratio(last(&self.resident).libraries as f64, last(&baseline.resident).libraries as f64),
        })
    }
}

fn last(bytes: &[Bytes]) -> Bytes {
    bytes.last().copied().unwrap_or_default()
}

fn print(found: &[Found]) {
    let Some(baseline) = found.iter().find(|of| of.kind == BASELINE) else {
        return;
    };
    for (title, of) in [
        (
            "different contents",
            (|found| &found.distinct) as fn(&Found) -> &Vec<Bytes>,
        ),
        ("in memory, one of each running", |found| &found.resident),
    ] {
        println!(
            "layouts: pages of libraries, MiB, {title}; all pages; against {}",
            BASELINE.name()
        );
        for found in found {
            let libraries = STEPS.map(|count| {
                let at = of(found).get(count - 1).copied().unwrap_or_default();
                format!("{:>8.2}", at.libraries as f64 / MIB)
            });
            let (end, against) = (last(of(found)), last(of(baseline)));
            println!(
                "  {:<8}{}   all {:>7.2}   libraries {:.2}, all {:.2}",
                found.kind.name(),
                libraries.concat(),
                end.all as f64 / MIB,
                ratio(end.libraries as f64, against.libraries as f64),
                ratio(end.all as f64, against.all as f64)
            );
        }
    }
    for found in found {
        println!(
            "  {:<8}charged to the guests {:>7.2} MiB",
            found.kind.name(),
            found.charged as f64 / MIB
        );
    }
}
