//! Small programs of tests: compiled, linked by `pool link` at the addresses that a host's pool gives, and pushed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::host::Host;

/// A folder of programs for a host.
#[derive(Debug)]
pub struct Workshop<'h> {
    host: &'h Host,
    folder: PathBuf,
}

impl<'h> Workshop<'h> {
    /// Works in `folder`, which is made if it is not there.
    pub fn new(host: &'h Host, folder: &Path) -> Result<Self> {
        // A compiler driver looks for `ld` in the directories given by -B.
        let drivers = folder.join("bin");
        fs::create_dir_all(&drivers)?;
        let folder = folder.canonicalize()?;
        let ld = drivers.join("ld");
        let _ = fs::remove_file(&ld);
        symlink(host.binary("pool"), &ld).context("making the linker's name")?;
        Ok(Self { host, folder })
    }

    /// Where a file of the folder is.
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    /// Runs a program in the folder, and says what it printed; it must succeed.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<Vec<u8>> {
        succeeds(
            Command::new(program)
                .args(arguments)
                .current_dir(&self.folder),
        )
    }

    /// Writes `text` to `file` and has it compiled: `NAME.cc` to `NAME.o`.
    pub fn compile(&self, compiler: &str, options: &[&str], file: &str, text: &str) -> Result<()> {
        fs::write(self.path(file), text)?;
        self.run(compiler, &[options, &["-c", file]].concat())
            .map(drop)
    }

    /// Makes an archive of `members`.
    pub fn archive(&self, file: &str, members: &[&str]) -> Result<()> {
        self.run("ar", &[&["rcs", file], members].concat())
            .map(drop)
    }

    /// Links the static program `file`, as the compiler driver `driver` asks for with `arguments`.
    pub fn link(&self, driver: &str, file: &str, arguments: &[&str]) -> Result<()> {
        let mut link = Command::new(driver);
        link.args(["-static", "-Bbin/", "-o", file])
            .args(arguments)
            .env("POOL_SERVER", self.host.server())
            .env_remove("POOL_REGISTRY")
            .current_dir(&self.folder);
        succeeds(&mut link).map(drop)
    }

    /// Links the program and pushes it as `image/NAME:v1`.
    pub fn push(&self, driver: &str, name: &str, arguments: &[&str]) -> Result<()> {
        self.link(driver, name, arguments)?;
        let file = self.path(name);
        let file = file.to_str().context("the output path is not UTF-8")?;
        self.host
            .pool(&["push", "image", file, "--name", name, "--tag", "v1"])
            .map(drop)
    }
}

/// Runs a command to its end, and says what it printed; it must succeed.
pub fn succeeds(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    let says = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {says}");
    Ok(output.stdout)
}
