//! `poolvmm`: runs an image of the pool.
//!
//! The C library calls [`main`], without the standard library's own start: that makes a stack for
//! signal handlers that this program has not, and reads `/proc/self/maps` for it.

// A test has the start that its harness makes.
#![cfg_attr(not(test), no_main)]

mod arguments;

use std::ffi::{c_char, c_int};
use std::fs::File;
use std::io::Write;

use poolvmm::descriptors;
use poolvmm::report::Report;
use poolvmm::run::{Guest, RunError};
use poolvmm::stamp::Stamp;

use crate::arguments::{Command, HELP};

/// The VMM itself failed.
const FAILED: u8 = 1;
/// The command line is wrong.
const WRONG_USE: u8 = 2;

/// Called by the C library; the arguments are where [`std::env::args_os`] finds them.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn main(_count: c_int, _arguments: *const *const c_char) -> c_int {
    let main = Stamp::now();
    let status = start(main);
    // Where nothing can be printed nobody reads.
    let _ = std::io::stdout().flush();
    status.into()
}

fn start(main: Stamp) -> u8 {
    if let Err(error) = descriptors::reserve() {
        eprintln!("poolvmm: preparing descriptors: {error}; is the limit (ulimit -n) below 64?");
        return FAILED;
    }
    match Command::parse(std::env::args_os().skip(1)) {
        Ok(Command::Help) => {
            print!("{HELP}");
            0
        }
        Ok(Command::Version) => {
            println!("poolvmm {}", env!("CARGO_PKG_VERSION"));
            0
        }
        Ok(Command::Run(run)) => execute(*run, main),
        Err(error) => {
            eprintln!("poolvmm: {error}\ntry: poolvmm --help");
            WRONG_USE
        }
    }
}

fn execute(run: arguments::Run, main: Stamp) -> u8 {
    // Opened now: later this process may open nothing.
    let report_file = match run.report.as_ref().map(File::create).transpose() {
        Ok(file) => file,
        Err(error) => {
            let path = run.report.unwrap_or_default();
            eprintln!("poolvmm: --report {}: {error}", path.display());
            return FAILED;
        }
    };
    match Guest::open(run.options, main).and_then(Guest::run) {
        Ok(report) => finish(&report, report_file),
        Err(error) => {
            complain(&error);
            FAILED
        }
    }
}

fn finish(report: &Report, file: Option<File>) -> u8 {
    if let Some(fault) = &report.fault {
        eprintln!("{fault}");
    }
    for line in report.unserved.lines(report.status != 0) {
        eprintln!("{line}");
    }
    if let Some(mut file) = file {
        let written = serde_json::to_vec_pretty(report)
            .map_err(std::io::Error::from)
            .and_then(|json| file.write_all(&json));
        if let Err(error) = written {
            eprintln!("poolvmm: writing the report: {error}");
            return FAILED;
        }
    }
    report.status
}

fn complain(error: &RunError) {
    eprintln!("poolvmm: {error}");
}
