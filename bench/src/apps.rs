//! Programs that compute, in a guest against natively: the same linked file, in turns.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use pool_tests::host::Host;
use pool_tests::run::{Backing, command};
use pool_tests::source_directory;
use serde_json::json;

use crate::measure::{median, ratio};
use crate::write_result;

const RUNS: usize = 11;
/// Programs of `apps/`, and what they are run with.
const PROGRAMS: [(&str, &[&str]); 7] = [
    ("mandelbrot", &[]),
    ("matrix", &[]),
    ("upscale", &[]),
    ("zlib", &[]),
    ("openssl", &[]),
    (
        "lua",
        &[
            "-e",
            "local function fib(n) return n < 2 and n or fib(n-1) + fib(n-2) end print(fib(30))",
        ],
    ),
    (
        "sqlite3",
        &[
            ":memory:",
            "pragma temp_store=memory; create table t(a, b); with recursive n(i) as (select 0 union all select i+1 from n where i < 300000) \
             insert into t select i, i*7919%300007 from n; create index by_b on t(b); select sum(a) from t where b < 9000;",
        ],
    ),
];
const PLATFORMS: [&str; 2] = ["kvm", "process"];

/// Measures, and writes `apps.json`.
pub(crate) fn run_all(out: &Path) -> Result<()> {
    let host = Host::start(&out.join("apps-pool"), &[])?;
    let linked_programs = push(&host, out, &PROGRAMS.map(|(name, _)| name))?;
    let mut result = json!({ "runs": RUNS });
    println!("apps: exec to end, ms (median of {RUNS}), and against native");
    for (name, arguments) in PROGRAMS {
        let linked = linked_programs.join(name);
        let mut samples = [const { Vec::new() }; PLATFORMS.len() + 1];
        for _ in 0..RUNS {
            samples[0].push(milliseconds(Command::new(&linked).args(arguments))?);
            for (samples, platform) in samples[1..].iter_mut().zip(PLATFORMS) {
                let image = format!("image/{name}:v1");
                let mut guest = command(&host, &image, Backing::Pool, platform);
                guest.args(["--memory", "256M", "--"]).args(arguments);
                samples.push(milliseconds(&mut guest)?);
            }
        }
        let native = median(&samples[0]);
        let mut line = format!("  {name:<12} native {native:8.1}");
        result[name]["native_ms"] = json!(native);
        for (samples, platform) in samples[1..].iter().zip(PLATFORMS) {
            let guest = median(samples);
            write!(
                line,
                "  {platform} {guest:8.1} {:5.2}",
                ratio(guest, native)
            )?;
            result[name][platform] = json!({ "ms": guest, "ratio": ratio(guest, native) });
        }
        println!("{line}");
    }
    write_result(out, "apps", &result)
}

/// Builds programs of `apps/` and pushes them as `image/NAME:v1`; answers with the directory of the linked
/// files. What was built stays for the next measurement.
pub(crate) fn push(host: &Host, out: &Path, names: &[&str]) -> Result<PathBuf> {
    let linked = build(out, &[], names)?;
    for name in names {
        let path = linked.join(name);
        let path = path.to_str().context("the path is not UTF-8")?;
        host.pool(&["push", "image", path, "--name", name, "--tag", "v1"])?;
    }
    Ok(linked)
}

/// Builds programs of `apps/` with options of `apps/build`. Answers with the directory of the linked files.
pub(crate) fn build(out: &Path, options: &[&str], names: &[&str]) -> Result<PathBuf> {
    let cache = out.join("apps-programs");
    let status = Command::new(source_directory().join("apps/build"))
        .args(options)
        .args(names)
        .env("POOL_APPS_CACHE", &cache)
        .status()
        .context("starting apps/build")?;
    ensure!(status.success(), "apps/build failed: see above");
    Ok(cache.join("linked"))
}

fn milliseconds(command: &mut Command) -> Result<f64> {
    let began = Instant::now();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    let took = began.elapsed().as_secs_f64() * 1000.0;
    ensure!(
        output.status.success(),
        "{:?} failed: {}",
        command,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(took)
}
