//! Programs of `apps/`, each held where it waits: for a request, for input, for room in its output.

use std::net::SocketAddr;
use std::process::Stdio;

use anyhow::Result;
use pool_tests::host::Host;
use pool_tests::run::{Backing, command};

use crate::fleet::Fleet;
use crate::servers::{self, Files};

/// A program and what it is started with, as [`servers`] fills it in; SILENT is the address of a server that never
/// answers.
pub(crate) type Program = (&'static str, &'static [&'static str]);

/// Those that wait whatever their output is.
pub(crate) const WAITING: [Program; 15] = [
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
/// Those that wait where nobody takes what they write.
pub(crate) const ENDING: [Program; 5] = [
    (
        "dnsmasq",
        &[
            "--no-daemon",
            "-p",
            "PORT",
            "--no-resolv",
            "--no-hosts",
            "--conf-file=/dev/null",
            "--user=root",
            "--group=root",
            "--pid-file=",
            "--listen-address=127.0.0.1",
            "--bind-interfaces",
        ],
    ),
    ("matrix", &[]),
    ("openssl", &[]),
    ("threads", &[]),
    ("zlib", &[]),
];
const PLATFORM: &str = "kvm";

/// Starts a program as a guest, with an input that never comes.
pub(crate) fn start(
    fleet: &mut Fleet,
    host: &Host,
    backing: Backing,
    (name, arguments): Program,
    (files, silent): (&Files, SocketAddr),
    output: Stdio,
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
    fleet.start(&command, Stdio::piped(), output)?;
    Ok(())
}
