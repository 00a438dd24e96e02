//! The same files taken in by `pool push list`, and by programs that keep each piece of what they back up once: how long that
//! takes, the first time and when all of it is known, and what it takes up.
//!
//! Each is told to leave out compression where it can: the pool's pages are mapped, so they lie there as they are. All are
//! left to decide what they sync; a push is durable when it is answered.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use pool_tests::host::Host;
use serde::Serialize;
use serde_json::json;

use crate::measure::{median, ratio};
use crate::write_result;

/// Bytes of files that are taken in.
const BYTES: u64 = 256 << 20;
/// The smallest and the largest file that is taken.
const FILE_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=64 << 20;
/// How often each is measured, one after the other; medians count.
const ROUNDS: usize = 5;
/// Where the files are from.
const SOURCES: [&str; 2] = ["/usr/bin", "/usr/lib/x86_64-linux-gnu"];

/// A program that takes files in.
struct Archiver {
    name: &'static str,
    /// Says whether it is here.
    version: &'static [&'static str],
    /// Makes an empty repository `$1`, where it needs that.
    prepare: &'static str,
    /// Puts the directory `$2` into the repository `$1`, as number `$3`.
    take: &'static str,
}

const ARCHIVERS: [Archiver; 3] = [
    Archiver {
        name: "borg",
        version: &["borg", "--version"],
        prepare: "borg init --encryption none \"$1\"",
        take: "borg create --compression none \"$1::n$3\" \"$2\"",
    },
    Archiver {
        name: "restic",
        version: &["restic", "version"],
        prepare: "restic init --quiet --repository-version 2 --repo \"$1\"",
        // Files of the same times are not read again otherwise.
        take: "restic backup --quiet --force --no-cache --compression off --repo \"$1\" \"$2\"",
    },
    Archiver {
        name: "casync",
        version: &["casync", "--version"],
        prepare: "mkdir \"$1\"",
        take: "casync make --store \"$1/store.castr\" \"$1/n$3.caidx\" \"$2\"",
    },
];

/// What one of them needed.
#[derive(Clone, Debug, Default)]
struct Samples {
    /// Seconds for files that nobody has.
    new: Vec<f64>,
    /// Seconds for the same files under another name.
    known: Vec<f64>,
    /// MiB of disk after both.
    disk: Vec<f64>,
}

/// Medians of one of them.
#[derive(Clone, Debug, Serialize)]
struct Figures {
    name: &'static str,
    new_seconds: f64,
    known_seconds: f64,
    disk_mebibytes: f64,
    /// Its times over the pool's.
    new_ratio: f64,
    known_ratio: f64,
}

/// Measures, and writes `archivers.json`.
pub(crate) fn run_all(out: &Path) -> Result<()> {
    let directory = tempfile::tempdir_in(out).context("making a directory for repositories")?;
    let files = directory.path().join("files");
    let bytes = gather(&files)?;
    let here: Vec<&Archiver> = ARCHIVERS
        .iter()
        .filter(|archiver| archiver.is_here())
        .collect();
    let mut samples = vec![Samples::default(); 1 + here.len()];
    for round in 0..ROUNDS {
        let pool = directory.path().join(format!("pool-{round}"));
        push_all(&pool, &files, &mut samples[0])?;
        fs::remove_dir_all(&pool).context("removing a pool")?;
        for (archiver, samples) in here.iter().zip(&mut samples[1..]) {
            let repository = directory.path().join(format!("{}-{round}", archiver.name));
            archiver.measure(&repository, &files, directory.path(), samples)?;
            fs::remove_dir_all(&repository).context("removing a repository")?;
        }
    }
    let names = std::iter::once("pool").chain(here.iter().map(|archiver| archiver.name));
    let [new, known] = [median(&samples[0].new), median(&samples[0].known)];
    let figures: Vec<Figures> = names
        .zip(&samples)
        .map(|(name, samples)| Figures {
            name,
            new_seconds: median(&samples.new),
            known_seconds: median(&samples.known),
            disk_mebibytes: median(&samples.disk),
            new_ratio: ratio(median(&samples.new), new),
            known_ratio: ratio(median(&samples.known), known),
        })
        .collect();
    println!(
        "archivers: {} MiB of files, seconds for new and for known ones, against the pool's, and MiB of disk (median of {ROUNDS})",
        bytes >> 20
    );
    for figures in &figures {
        println!(
            "  {:<8}{:>8.2}{:>8.2}{:>8.2}{:>8.2}{:>8.0}",
            figures.name,
            figures.new_seconds,
            figures.new_ratio,
            figures.known_seconds,
            figures.known_ratio,
            figures.disk_mebibytes
        );
    }
    write_result(
        out,
        "archivers",
        &json!({ "bytes": bytes, "programs": figures }),
    )
}

/// Copies programs and libraries of this host to `files`, the same ones each time, and says how many bytes they have.
fn gather(files: &Path) -> Result<u64> {
    fs::create_dir(files).context("making a directory for files")?;
    let mut found: Vec<(PathBuf, u64)> = Vec::new();
    for source in SOURCES {
        for entry in fs::read_dir(source).with_context(|| format!("listing {source}"))? {
            let path = entry?.path();
            let metadata = fs::symlink_metadata(&path)?;
            if metadata.is_file() && FILE_BYTES.contains(&metadata.len()) {
                found.push((path, metadata.len()));
            }
        }
    }
    found.sort();
    let mut bytes = 0;
    for (path, length) in found {
        if bytes >= BYTES {
            break;
        }
        let name = path.file_name().context("a file without a name")?;
        // Two directories may have the same name.
        if fs::exists(files.join(name))? {
            continue;
        }
        fs::copy(&path, files.join(name)).with_context(|| format!("copying {}", path.display()))?;
        bytes += length;
    }
    Ok(bytes)
}

/// Pushes every file to a new pool in `directory`, and again under other names.
fn push_all(directory: &Path, files: &Path, samples: &mut Samples) -> Result<()> {
    let host = Host::start(directory, &[])?;
    let mut paths = Vec::new();
    for entry in fs::read_dir(files)? {
        paths.push(entry?.path());
    }
    paths.sort();
    for (version, times) in [("1", &mut samples.new), ("2", &mut samples.known)] {
        let list = directory.join(version);
        let lines = paths.iter().enumerate();
        let lines =
            lines.map(|(nth, path)| format!("lib/file-{nth}@{version} {}\n", path.display()));
        fs::write(&list, lines.collect::<String>())?;
        let list = list.to_str().context("a name that is no text")?;
        let since = Instant::now();
        host.pool(&["push", "list", list])?;
        times.push(since.elapsed().as_secs_f64());
    }
    samples.disk.push(mebibytes(&host.store())?);
    Ok(())
}

impl Archiver {
    fn is_here(&self) -> bool {
        let asked = Command::new(self.version[0])
            .args(&self.version[1..])
            .output();
        let is_here = asked.is_ok_and(|output| output.status.success());
        if !is_here {
            println!(
                "archivers: {} is not here (apt-get install borgbackup restic casync)",
                self.name
            );
        }
        is_here
    }

    fn measure(
        &self,
        repository: &Path,
        files: &Path,
        home: &Path,
        samples: &mut Samples,
    ) -> Result<()> {
        let run = |script: &str, nth: &str| {
            let output = Command::new("sh")
                .args(["-ec", script, "sh"])
                .args([repository, files])
                .arg(nth)
                // What it keeps of its own goes with the repository.
                .env("HOME", home)
                .env("RESTIC_PASSWORD", "none")
                .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes")
                .output()
                .with_context(|| format!("starting {}", self.name))?;
            let says = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{}: {says}", self.name);
            Ok(())
        };
        run(self.prepare, "0")?;
        for (nth, times) in [("1", &mut samples.new), ("2", &mut samples.known)] {
            let since = Instant::now();
            run(self.take, nth)?;
            times.push(since.elapsed().as_secs_f64());
        }
        samples.disk.push(mebibytes(repository)?);
        Ok(())
    }
}

/// MiB of disk that the files in `directory` and below take up.
fn mebibytes(directory: &Path) -> Result<f64> {
    fn blocks(directory: &Path) -> Result<u64> {
        let mut sum = 0;
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            sum += if metadata.is_dir() {
                blocks(&entry.path())?
            } else {
                metadata.blocks()
            };
        }
        Ok(sum)
    }
    let blocks = blocks(directory).with_context(|| format!("measuring {}", directory.display()))?;
    Ok(blocks as f64 / 2048.0)
}
