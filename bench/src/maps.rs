//! What an image's map costs through the mount, which is what each start reads first: when it was read before, right after
//! a commit of something else, and by a tag that nobody has looked up, in a pool of one tag and of many.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use pool_core::page::PAGE_SIZE;
use pool_tests::guests;
use pool_tests::host::Host;
use serde::Serialize;
use serde_json::json;

use crate::measure::median;
use crate::measure::pushing::{at_once, client, fresh, push_library};
use crate::{from_environment, write_result};

/// Tags, unless `POOL_MAPS_TAGS` says otherwise.
const TAGS: u64 = 10_000;
/// The image that has them.
const IMAGE: &str = "hello";
/// How often each is measured; medians count.
const TIMES: u64 = 501;
/// Threads that give tags.
const WRITERS: u64 = 8;
/// Pages of what is committed in between.
const COMMITTED: usize = 3;

/// Microseconds that opening and reading a map takes.
#[derive(Debug, Serialize)]
struct Figures {
    tags: u64,
    /// A file of as many bytes beside the store.
    file: f64,
    /// One that has just been read.
    warm: f64,
    /// The same, right after a commit.
    after_commit: f64,
    /// By a tag that was not looked up before; none if there is one alone.
    new_tag: Option<f64>,
}

/// Measures, and writes `maps.json`.
pub(crate) fn run_all(out: &Path) -> Result<()> {
    let tags = from_environment("POOL_MAPS_TAGS", TAGS)?;
    let host = Host::start(&out.join("maps-pool"), &[])?;
    guests::push(&host, &out.join("guests"), IMAGE)?;
    let few = measure(&host, 0)?;
    give_tags(&host, tags)?;
    let many = measure(&host, tags)?;
    println!("maps: microseconds to open and read an image's map (median of {TIMES})");
    println!(
        "  {:>6} {:>8} {:>8} {:>14} {:>10}",
        "tags", "a file", "warm", "after a commit", "a new tag"
    );
    for figures in [&few, &many] {
        println!(
            "  {:>6} {:>8.1} {:>8.1} {:>14.1} {:>10}",
            figures.tags,
            figures.file,
            figures.warm,
            figures.after_commit,
            figures
                .new_tag
                .map_or("-".to_owned(), |time| format!("{time:.1}"))
        );
    }
    write_result(
        out,
        "maps",
        &json!({ "times": TIMES, "figures": [few, many] }),
    )
}

/// Gives the image `tags` tags more.
fn give_tags(host: &Host, tags: u64) -> Result<()> {
    at_once(WRITERS, |first| {
        let client = client(host)?;
        let from = format!("{IMAGE}:v1").parse()?;
        for nth in (first..tags).step_by(WRITERS as usize) {
            client.tag(&from, &format!("{IMAGE}:{}", tag(nth)).parse()?)?;
        }
        Ok(())
    })
}

fn tag(nth: u64) -> String {
    format!("t{nth}")
}

/// Measures with `tags` further tags.
fn measure(host: &Host, tags: u64) -> Result<Figures> {
    let map = |tag: &str| host.mount_point().join(format!("images/{IMAGE}/{tag}/map"));
    let warm = map("v1");
    let file = host.store().with_file_name("map");
    fs::copy(&warm, &file).with_context(|| format!("copying {}", warm.display()))?;
    let client = client(host)?;
    let mut content = vec![0; COMMITTED * PAGE_SIZE as usize];
    let (mut files, mut warms, mut after, mut new) = (vec![], vec![], vec![], vec![]);
    for nth in 0..TIMES {
        // In turns, so that all see the same machine.
        files.push(read(&file)?);
        read(&warm)?;
        warms.push(read(&warm)?);
        if nth < tags {
            new.push(read(&map(&tag(nth * 7919 % tags)))?);
        }
        fresh(&[tags, nth], &mut content);
        push_library(&client, &content, &format!("between-{tags}@{nth}"))?;
        after.push(read(&warm)?);
    }
    Ok(Figures {
        tags: 1 + tags,
        file: median(&files),
        warm: median(&warms),
        after_commit: median(&after),
        new_tag: (!new.is_empty()).then(|| median(&new)),
    })
}

/// Microseconds that opening and reading a file takes.
fn read(path: &Path) -> Result<f64> {
    let since = Instant::now();
    let mut content = Vec::new();
    File::open(path)
        .and_then(|mut file| file.read_to_end(&mut content))
        .with_context(|| format!("reading {}", path.display()))?;
    Ok(since.elapsed().as_secs_f64() * 1e6)
}
