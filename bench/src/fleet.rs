//! Many guests at once that hold still to be measured.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use pool_tests::host::Host;
use pool_tests::memory_group::MemoryGroup;
use pool_tests::run::{Backing, command};

use crate::measure::memory;

/// Guests that have done their work and hold still.
#[derive(Debug)]
pub(crate) struct Fleet {
    guests: Vec<Child>,
    // Dropped after the guests were ended, by `Drop` below.
    group: MemoryGroup,
}

/// Memory of a fleet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FleetMemory {
    /// Instances.
    pub(crate) instances: usize,
    /// Sum of their proportional set sizes, in bytes.
    pub(crate) pss: u64,
    /// Sum of what they and their guests wrote, in bytes.
    pub(crate) anonymous: u64,
    /// What the kernel charges to them, its own structures included, in bytes.
    pub(crate) charged: u64,
}

impl Fleet {
    /// A fleet without guests.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            guests: Vec::new(),
            group: MemoryGroup::create("pool-bench")?,
        })
    }

    /// Starts a guest in its hold mode and waits until it holds.
    pub(crate) fn add(
        &mut self,
        host: &Host,
        image: &str,
        backing: Backing,
        platform: &str,
    ) -> Result<()> {
        let mut command = command(host, image, backing, platform);
        command.args(["--", "--hold"]);
        let guest = self.start(&command, Stdio::null(), Stdio::piped())?;
        let output = guest
            .stdout
            .take()
            .context("the guest has no standard output")?;
        let mut lines = BufReader::new(output).lines();
        ensure!(
            lines.any(|line| line.is_ok_and(|line| line == "holding")),
            "{image} ({}, {platform}) ended instead of holding",
            backing.name()
        );
        Ok(())
    }

    /// Starts a program whose memory counts from its first page on. Of `command` its program and its
    /// arguments are taken.
    pub(crate) fn start(
        &mut self,
        command: &Command,
        input: Stdio,
        output: Stdio,
    ) -> Result<&mut Child> {
        // The shell joins the group before it becomes the program, so that every page is charged.
        let guest = Command::new("/bin/sh")
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(self.group.procs())
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(input)
            .stdout(output)
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        self.guests.push(guest);
        self.guests.last_mut().context("the guest just started")
    }

    /// An error unless all guests still run.
    pub(crate) fn check(&mut self) -> Result<()> {
        for (number, guest) in self.guests.iter_mut().enumerate() {
            if let Some(status) = guest.try_wait().context("looking after a guest")? {
                bail!("guest {} ended instead of waiting: {status}", number + 1);
            }
        }
        Ok(())
    }

    /// Bytes that the kernel charges to the guests at this moment, without what it has read of files for nobody.
    pub(crate) fn held(&self) -> Result<u64> {
        self.group.held()
    }

    /// Memory of all guests, once it holds still.
    pub(crate) fn memory(&self) -> Result<FleetMemory> {
        let charged = self.group.settled_bytes()?;
        let (mut pss, mut anonymous) = (0, 0);
        for guest in &self.guests {
            let memory = memory::of_process(guest.id())?;
            pss += memory.pss;
            anonymous += memory.anonymous;
        }
        Ok(FleetMemory {
            instances: self.guests.len(),
            pss,
            anonymous,
            charged,
        })
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for guest in &mut self.guests {
            let _ = guest.kill();
        }
        for guest in &mut self.guests {
            let _ = guest.wait();
        }
    }
}
