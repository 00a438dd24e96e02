//! Many instances of one function: a Go program that serves HTTP.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use pool_tests::host::Host;
use pool_tests::run::{Backing, command};

use super::MODES;
use super::series::Series;
use crate::apps;
use crate::fleet::Fleet;
use crate::servers::free_address;

const INSTANCES: usize = 128;
const PROGRAM: &str = "go-http";
const PLATFORM: &str = "kvm";
/// Far longer than a start takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// From one try to connect to the next.
const TRY: Duration = Duration::from_micros(200);

pub(super) fn measure(host: &Host, out: &Path) -> Result<Vec<Series>> {
    apps::push(host, out, &[PROGRAM])?;
    println!("faas: {INSTANCES} instances of {PROGRAM}, one after the other");
    MODES
        .into_iter()
        .map(|mode| {
            let shared = super::shared_bytes(host, mode.backing)?;
            Series::measure(mode, INSTANCES, shared, |fleet, _| {
                start(fleet, host, mode.backing).map(Some)
            })
        })
        .collect()
}

/// Starts one and asks it for a sum; milliseconds from the start to the answer.
fn start(fleet: &mut Fleet, host: &Host, backing: Backing) -> Result<f64> {
    let address = free_address()?;
    let mut command = command(host, &format!("image/{PROGRAM}:v1"), backing, PLATFORM);
    command.args([
        "--net",
        "host",
        "--memory",
        "256M",
        "--",
        &address.to_string(),
    ]);
    let began = Instant::now();
    let guest = fleet.start(&command, Stdio::null(), Stdio::null())?;
    let mut connection = connect(address, guest, began)?;
    connection.write_all(b"GET /sum?n=100 HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    connection
        .read_to_string(&mut answer)
        .context("reading the function's answer")?;
    let took = began.elapsed().as_secs_f64() * 1000.0;
    ensure!(
        answer.starts_with("HTTP/1.1 200") && answer.trim_end().ends_with("{\"sum\":5050}"),
        "the function answered: {answer}"
    );
    Ok(took)
}

fn connect(address: SocketAddr, guest: &mut Child, began: Instant) -> Result<TcpStream> {
    loop {
        if let Ok(connection) = TcpStream::connect(address) {
            return Ok(connection);
        }
        if let Some(status) = guest.try_wait()? {
            bail!("the function ended instead of serving: {status}");
        }
        ensure!(
            began.elapsed() < PATIENCE,
            "the function does not listen on {address}"
        );
        thread::sleep(TRY);
    }
}
