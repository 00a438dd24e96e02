//! Guest programs: real ones, linked against real libraries by `pool link`.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::host::Host;
use crate::run::{Backing, command};
use crate::workshop::Workshop;

/// The programs of the demo; `touch8m` is for measurements.
pub const PROGRAMS: [&str; 4] = ["hello", "zlib-roundtrip", "sqlite-workload", "lua-script"];
/// The program that touches all of an 8 MiB library.
pub const TOUCH: &str = "touch8m";
/// The program that reads the clock.
pub const CLOCK: &str = "clock-read";

/// The program that measures what memory costs it.
pub const MEMORY: &str = "memory-calls";

/// Guest programs that were compiled, and linked at registered addresses.
#[derive(Debug)]
pub struct Guests {
    directory: PathBuf,
}

/// Compiles libraries and programs into `directory` (what is there already stays) and links the
/// programs at the addresses that the host's pool gives.
pub fn build(host: &Host, directory: &Path, programs: &[&str]) -> Result<Guests> {
    let script = crate::source_directory().join("tests/guests/build.sh");
    fs::create_dir_all(directory)?;
    let status = Command::new(&script)
        .arg(directory)
        .status()
        .with_context(|| format!("starting {}", script.display()))?;
    ensure!(status.success(), "{} failed: see above", script.display());
    let guests = Guests {
        directory: directory.canonicalize()?,
    };
    let workshop = Workshop::new(host, &guests.directory)?;
    for program in programs {
        guests.link(&workshop, program)?;
    }
    Ok(guests)
}

/// Builds, links and pushes one program as `image/NAME:v1`.
pub fn push(host: &Host, directory: &Path, program: &str) -> Result<Guests> {
    let guests = build(host, directory, &[program])?;
    let elf = guests.linked(program);
    let elf = elf.to_str().context("the output path is not UTF-8")?;
    host.pool(&["push", "image", elf, "--name", program, "--tag", "v1"])?;
    Ok(guests)
}

impl Guests {
    fn link(&self, workshop: &Workshop<'_>, program: &str) -> Result<()> {
        let libraries = fs::read_to_string(self.directory.join(format!("{program}.libs")))?;
        let object = format!("{program}.o");
        let mut arguments = vec![object.as_str(), "-L."];
        arguments.extend(libraries.split_whitespace());
        arguments.push("-Wl,@pool-library.args");
        let linked = workshop.link("musl-gcc", &format!("{program}.elf"), &arguments);
        linked.context("linking a guest (package musl-tools)")
    }

    /// The executable that `pool link` made.
    pub fn linked(&self, program: &str) -> PathBuf {
        self.directory.join(format!("{program}.elf"))
    }

    /// What the program prints when the system's linker linked it and Linux runs it under the
    /// name that it has as an image.
    pub fn run_natively(&self, program: &str) -> Result<Vec<u8>> {
        let reference = self.directory.join("reference").join(program);
        // argv[0] is the image's name in a guest; the shell's exec -a gives it here.
        let output = Command::new("bash")
            .args(["-c", "exec -a \"$0\" \"$1\"", program])
            .arg(&reference)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("running {}", reference.display()))?;
        ensure!(output.status.success(), "{program} failed natively");
        Ok(output.stdout)
    }
}

/// A guest that was started and has not begun its work: it waits for a byte.
#[derive(Debug)]
pub struct Paused {
    guest: Child,
}

impl Paused {
    /// Starts an image and waits until it waits.
    pub fn start(host: &Host, image: &str, platform: &str) -> Result<Self> {
        let mut guest = command(host, image, Backing::Pool, platform)
            .args(["--", "--wait"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting poolvmm")?;
        let errors = guest
            .stderr
            .take()
            .context("the guest has no standard error")?;
        let paused = Self { guest };
        let mut said = String::new();
        BufReader::new(errors).read_line(&mut said)?;
        ensure!(said == "waiting\n", "{image} did not wait: {said}");
        Ok(paused)
    }

    /// Lets it work, and returns what it printed once it ended well.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        let mut input = self
            .guest
            .stdin
            .take()
            .context("the guest has no standard input")?;
        input.write_all(b"\n").context("waking the guest")?;
        drop(input);
        let mut output = Vec::new();
        let mut pipe = self
            .guest
            .stdout
            .take()
            .context("the guest has no standard output")?;
        pipe.read_to_end(&mut output)?;
        let status = self.guest.wait()?;
        ensure!(status.success(), "the guest ended with {status}");
        Ok(output)
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        let _ = self.guest.kill();
        let _ = self.guest.wait();
    }
}
