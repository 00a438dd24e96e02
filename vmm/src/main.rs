//! `poolvmm`: runs an image of the pool.
//!
//! The C library calls [`main`], without the standard library's own start: that makes a stack for
//! signal handlers that this program has not, and reads `/proc/self/maps` for it.

// A test has the start that its harness makes.
#![cfg_attr(not(test), no_main)]

mod arguments;

use std::ffi::{c_char, c_int};
use std::fmt::Display;
use std::fs::File;
use std::io::Write;

use poolvmm::descriptors;
use poolvmm::report::Report;
use poolvmm::run::Guest;
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
    start(main).into()
}

fn start(main: Stamp) -> u8 {
    if let Err(error) = descriptors::reserve() {
        say(format_args!("poolvmm: preparing descriptors: {error}"));
        return FAILED;
    }
    match Command::parse(std::env::args_os().skip(1)) {
        Ok(Command::Help) => print(HELP),
        Ok(Command::Version) => print(concat!("poolvmm ", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(Command::Run(run)) => execute(*run, main),
        Err(error) => {
            say(format_args!("poolvmm: {error}\ntry: poolvmm --help"));
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
            say(format_args!(
                "poolvmm: --report {}: {error}",
                path.display()
            ));
            return FAILED;
        }
    };
    match Guest::open(run.options, main).and_then(Guest::run) {
        Ok(report) => finish(&report, report_file),
        Err(error) => {
            say(format_args!("poolvmm: {error}"));
            FAILED
        }
    }
}

fn finish(report: &Report, file: Option<File>) -> u8 {
    if let Some(fault) = &report.fault {
        say(fault);
    }
    for line in report.unserved.lines(report.status != 0) {
        say(line);
    }
    if let Some(mut file) = file {
        let written = serde_json::to_vec_pretty(report)
            .map_err(std::io::Error::from)
            .and_then(|json| file.write_all(&json));
        if let Err(error) = written {
            say(format_args!("poolvmm: writing the report: {error}"));
            return FAILED;
        }
    }
    report.status
}

/// Says something on standard error. What becomes of the run does not depend on who listens: a reader that has
/// gone or a full disk is no reason to end otherwise, least of all by a panic, for which a confined process has no
/// calls.
fn say(words: impl Display) {
    let _ = writeln!(std::io::stderr(), "{words}");
}

/// Prints what was asked for.
fn print(text: &str) -> u8 {
    let mut output = std::io::stdout();
    match output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
    {
        Ok(()) => 0,
        Err(error) => {
            say(format_args!("poolvmm: printing: {error}"));
            FAILED
        }
    }
}
