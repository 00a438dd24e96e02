//! Twenty different programs, each of which is held where it waits.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use pool_tests::guests;
use pool_tests::host::Host;

use super::MODES;
use super::series::Series;
use crate::apps;
use crate::programs::{self, WAITING};
use crate::servers::Files;

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
    apps::push(host, out, &WAITING.map(|(name, _)| name))?;
    for name in HOLDING {
        guests::push(host, &out.join("guests"), name)?;
    }
    // What it takes in waits in the kernel's queue.
    let silent = TcpListener::bind("127.0.0.1:0").context("listening")?;
    let address = silent.local_addr()?;
    let count = WAITING.len() + HOLDING.len();
    println!("faas: {count} different programs, one after the other");
    MODES
        .into_iter()
        .map(|mode| {
            let shared = super::shared_bytes(host, mode.backing)?;
            let mut files = Vec::new();
            Series::measure(mode, count, shared, |fleet, at| {
                if let Some(program) = WAITING.get(at) {
                    let own = Files::new()?;
                    let around = (&own, address);
                    programs::start(fleet, host, mode.backing, *program, around, Stdio::piped())?;
                    files.push(own);
                } else {
                    let image = format!("image/{}:v1", HOLDING[at - WAITING.len()]);
                    fleet.add(host, &image, mode.backing, PLATFORM)?;
                }
                Ok(None)
            })
        })
        .collect()
}
