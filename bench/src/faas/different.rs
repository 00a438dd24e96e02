//! Twenty different programs, each of which is held where it waits: for a request, for input, for room in
//! its output.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use pool_tests::guests;
use pool_tests::host::Host;
use pool_tests::run::{Backing, command};

use super::MODES;
use super::series::Series;
use crate::apps;
use crate::fleet::Fleet;
use crate::servers::{self, Files};

/// Programs of `apps/` and what they are started with, as [`servers`] fills it in; SILENT is the address of a
/// server that never answers.
const PROGRAMS: [(&str, &[&str]); 15] = [
    ("go-http", &["127.0.0.1:PORT"]),
    ("redis", servers::REDIS),
    ("nginx", servers::NGINX),
    ("lighttpd", servers::LIGHTTPD),
    ("chrony", servers::CHRONY),
    ("iperf", &["-s", "-p", "PORT", "-B", "127.0.0.1"]),
    (
        "memcached",
        &["-l", "127.0.0.1", "-p", "PORT", "-t", "2", "-u", "root"],
    ),
    (
        "python",
        &["-c", "import sys, json, threading; sys.stdin.read()"],
    ),
    ("lua", &["-e", "io.read()"]),
    ("zstd", &["-c", "-T2"]),
    ("xz", &["-c", "-T2"]),
    ("curl", &["-s", "http://SILENT/"]),
    // These write more than a pipe takes and wait for somebody who reads.
    ("mandelbrot", &[]),
    ("upscale", &[]),
    (
        "sqlite3",
        &[
            ":memory:",
            "with recursive n(i) as (select 1 union all select i+1 from n limit 100000) select i from n;",
        ],
    ),
];
/// Guests of the demo and of other measurements, which hold when they are asked to.
const HOLDING: [&str; 5] = [
    "hello",
    "zlib-roundtrip",
    "sqlite-workload",
    "lua-script",
    guests::TOUCH,
];
const PLATFORM: &str = "kvm";
pub(super) fn measure(host: &Host, out: &Path) -> Result<Vec<Series>> {
    apps::push(host, out, &PROGRAMS.map(|(name, _)| name))?;
    for name in HOLDING {
        guests::push(host, &out.join("guests"), name)?;
    }
    // What it takes in waits in the kernel's queue.
    let silent = TcpListener::bind("127.0.0.1:0").context("listening")?;
    let address = silent.local_addr()?;
    let count = PROGRAMS.len() + HOLDING.len();
    println!("faas: {count} different programs, one after the other");
    MODES
        .into_iter()
        .map(|mode| {
            let shared = super::shared_bytes(host, mode.backing)?;
            let mut files = Vec::new();
            Series::measure(mode, count, shared, |fleet, at| {
                if let Some(program) = PROGRAMS.get(at) {
                    let own = Files::new()?;
                    start(fleet, host, mode.backing, program, (&own, address))?;
                    files.push(own);
                } else {
                    let image = format!("image/{}:v1", HOLDING[at - PROGRAMS.len()]);
                    fleet.add(host, &image, mode.backing, PLATFORM)?;
                }
                Ok(None)
            })
        })
        .collect()
}

fn start(
    fleet: &mut Fleet,
    host: &Host,
    backing: Backing,
    (name, arguments): &(&str, &[&str]),
    (files, silent): (&Files, SocketAddr),
) -> Result<()> {
    let arguments = files.fill(arguments).into_iter();
    let mut command = command(host, &format!("image/{name}:v1"), backing, PLATFORM);
    command
        .args([
            "--net",
            "host",
            "--memory",
            "256M",
            "--dir",
            &files.grant(),
            "--",
        ])
        .args(arguments.map(|text| text.replace("SILENT", &silent.to_string())));
    fleet.start(&command, Stdio::piped(), Stdio::piped())?;
    Ok(())
}
