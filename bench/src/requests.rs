//! What a request costs a server in exits of its guest, against the system calls that the same file makes
//! natively.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use pool_tests::host::Host;
use pool_tests::run::{Backing, command};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::apps;
use crate::measure::ratio;
use crate::servers;
use crate::write_result;

/// What is taken away, so that start and end do not count.
const FEW: u64 = 1_000;
const MANY: u64 = 11_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// A server, and the client that asks it on one connection, or several, that stay open.
struct Server {
    name: &'static str,
    arguments: &'static [&'static str],
    client: fn(port: &str, requests: u64, connections: u64) -> Command,
}

const SERVERS: [Server; 2] = [
    Server {
        name: "nginx",
        arguments: servers::NGINX,
        client: |port, requests, connections| {
            let mut ab = Command::new("ab");
            ab.args(["-k", "-q", "-n", &requests.to_string()])
                .args(["-c", &connections.to_string()])
                .arg(format!("http://127.0.0.1:{port}/nginx.conf"));
            ab
        },
    },
    Server {
        name: "redis",
        arguments: servers::REDIS,
        client: |port, requests, connections| {
            let mut benchmark = Command::new("redis-benchmark");
            benchmark
                .args(["-p", port, "-q", "-t", "get", "-n", &requests.to_string()])
                .args(["-c", &connections.to_string()]);
            benchmark
        },
    },
];

/// Measures, and writes `requests.json`.
pub(crate) fn run_all(out: &Path) -> Result<()> {
    let host = Host::start(&out.join("requests-pool"), &[])?;
    let linked = apps::push(&host, out, &SERVERS.map(|server| server.name))?;
    println!(
        "requests: exits of the guest a request, system calls a request natively (keep-alive)"
    );
    let mut result = json!({});
    for server in &SERVERS {
        for connections in [1, 16] {
            let guest = difference(|requests| exits(&host, server, requests, connections))?;
            let native = difference(|requests| {
                calls(&linked.join(server.name), server, requests, connections)
            })?;
            println!(
                "  {:<8}{connections:>3} connections: {guest:6.2} exits, {native:6.2} calls natively, {:5.2}",
                server.name,
                ratio(guest, native)
            );
            result[server.name][connections.to_string()] =
                json!({ "exits": guest, "native_calls": native });
        }
    }
    write_result(out, "requests", &result)
}

/// What one request more takes.
fn difference(count: impl Fn(u64) -> Result<u64>) -> Result<f64> {
    let (few, many) = (count(FEW)?, count(MANY)?);
    Ok((many as f64 - few as f64) / (MANY - FEW) as f64)
}

fn exits(host: &Host, server: &Server, requests: u64, connections: u64) -> Result<u64> {
    let files = servers::Files::new()?;
    let report = files.path().join("report.json");
    let image = format!("image/{}:v1", server.name);
    let mut guest = command(host, &image, Backing::Pool, "kvm");
    guest
        .args(["--net", "host", "--memory", "256M"])
        .args(["--dir", &files.grant(), "--report"])
        .arg(&report)
        .arg("--")
        .args(files.fill(server.arguments));
    serve(&mut guest, server, &files, requests, connections)?;
    let report: Value = serde_json::from_slice(&fs::read(&report).context("reading the report")?)?;
    let exits = report["exits"].as_object().context("no exits reported")?;
    Ok(exits.values().filter_map(Value::as_u64).sum())
}

fn calls(program: &Path, server: &Server, requests: u64, connections: u64) -> Result<u64> {
    let files = servers::Files::new()?;
    let summary = files.path().join("calls");
    let mut traced = Command::new("strace");
    // strace in the background: the process that is waited for and signalled is the server.
    traced
        .args(["-D", "-f", "-c", "-U", "calls,name", "-o"])
        .arg(&summary)
        .arg(program)
        .args(files.fill(server.arguments));
    serve(&mut traced, server, &files, requests, connections)?;
    // strace writes its summary once the server has ended.
    let began = Instant::now();
    loop {
        let text = fs::read_to_string(&summary).unwrap_or_default();
        if let Some(total) = text
            .lines()
            .find_map(|line| line.trim().strip_suffix("total"))
        {
            return total.trim().parse().context("reading strace's summary");
        }
        ensure!(began.elapsed() < PATIENCE, "strace wrote no summary");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Starts the server, lets the client ask, and ends it.
fn serve(
    command: &mut Command,
    server: &Server,
    files: &servers::Files,
    requests: u64,
    connections: u64,
) -> Result<()> {
    let mut process = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    let asked = ask(&mut process, server, files, requests, connections);
    kill_process(Pid::from_child(&process), Signal::TERM)?;
    process.wait()?;
    asked
}

fn ask(
    process: &mut Child,
    server: &Server,
    files: &servers::Files,
    requests: u64,
    connections: u64,
) -> Result<()> {
    let began = Instant::now();
    while TcpStream::connect(files.address()).is_err() {
        if let Some(status) = process.try_wait()? {
            bail!("{} ended instead of serving: {status}", server.name);
        }
        ensure!(
            began.elapsed() < PATIENCE,
            "{} does not listen",
            server.name
        );
        thread::sleep(Duration::from_millis(5));
    }
    let port = files.address().port().to_string();
    let mut client = (server.client)(&port, requests, connections);
    let output = client
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {}", client.get_program().display()))?;
    ensure!(
        output.status.success(),
        "{client:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
