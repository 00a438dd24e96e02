//! One run of one guest, from the image's name to its exit status.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use pool_core::description::Abi;
use pool_core::image_map::ImageMap;
use thiserror::Error;

use crate::fault::{AddressNames, Outcome};
use crate::kvm::{self, KvmError, Machine, Shell};
use crate::linux::start::Start;
use crate::linux::{Linux, PID, Settings};
use crate::memory::{BuildError, MemoryCounts};
use crate::options::{Aslr, Options, Output, Platform};
use crate::plan::{Plan, PlanError};
use crate::pool::{Image, PoolError, Segments};
use crate::process::{self, ProcessError};
use crate::report::{Moments, Report};
use crate::sandbox::{self, SandboxError};
use crate::slide::{self, CannotSlide, Moved, Random, Slides};
use crate::stamp::Stamp;
use crate::standard::Standard;
use crate::unserved::Unserved;
use crate::usage::HostUsage;
use crate::world::{Grant, GrantError, World, WorldError};

/// Why a guest could not be run.
#[derive(Debug, Error)]
pub enum RunError {
    /// The pool, or the image in it.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The image is a kernel.
    #[error(
        "{image} is a kernel image ({protocol}), and poolvmm runs Linux programs: boot its file, \
         {file}, with {loader}",
        protocol = .abi.protocol(),
        loader = loader(*.abi)
    )]
    Kernel {
        /// What people call the image.
        image: String,
        /// How it is started.
        abi: Abi,
        /// The executable in the pool.
        file: PathBuf,
    },
    /// It cannot start elsewhere.
    #[error(
        "{image} cannot slide (--aslr {aslr}): {error}; without --aslr it starts where it was linked",
        aslr = .aslr.name()
    )]
    Slide {
        /// What people call the image.
        image: String,
        /// What was asked for.
        aslr: Aslr,
        /// Why not.
        error: CannotSlide,
    },
    /// The plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The image's memory could not be laid in.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The process platform.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A directory to be granted.
    #[error(transparent)]
    Grant(#[from] GrantError),
    /// The guest's file system.
    #[error(transparent)]
    World(#[from] WorldError),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// Where the trace is to go.
    #[error("--trace={0}: {1}")]
    Trace(String, io::Error),
    /// Standard input, output and error are none for a guest.
    #[error("preparing standard input, output and error: {0}")]
    Standard(io::Error),
}

/// An image that is leased, planned and ready to be started.
#[derive(Debug)]
pub struct Guest {
    image: Image,
    segments: Segments,
    plan: Plan,
    names: AddressNames,
    start: Start,
    grants: Vec<Grant>,
    options: Options,
    moments: Moments,
}

impl Guest {
    /// Opens the image, reads its map and plans it. `main` is when this process began.
    pub fn open(options: Options, main: Stamp) -> Result<Self, RunError> {
        let mut moments = Moments {
            start: options.start.unwrap_or(main),
            main,
            ..Moments::default()
        };
        let grants = Grant::parse_all(&options.directories);
        let image = Image::open(&options.pool, &options.image)?;
        let mut map = image.read_map()?;
        moments.read = Stamp::now();
        if map.description.abi != Abi::Linux {
            return Err(RunError::Kernel {
                abi: map.description.abi,
                file: image.file(),
                image: image.label,
            });
        }
        let plan = match options.aslr {
            Aslr::Off => Plan::new(&map, options.memory)?,
            aslr => slid(&image, &mut map, aslr, options.memory)?,
        };
        let segments = image.open_segments(&plan.segments())?;
        let stack = (plan.rooms.stack_low, plan.rooms.stack_high);
        let names = AddressNames::new(&image.label, &map.description, stack);
        let mut arguments = vec![image.program.clone().into_bytes()];
        arguments.extend(options.arguments.iter().cloned());
        let start = Start {
            arguments,
            environment: options.environment.clone(),
        };
        moments.planned = Stamp::now();
        Ok(Self {
            image,
            segments,
            plan,
            names,
            start,
            grants: grants?,
            options,
            moments,
        })
    }

    /// Runs the guest to its end. This process is confined for good before the guest's first
    /// instruction.
    pub fn run(self) -> Result<Report, RunError> {
        match self.options.platform {
            Platform::Kvm => self.run_kvm(),
            Platform::Process => self.run_process(),
        }
    }

    fn run_kvm(mut self) -> Result<Report, RunError> {
        let (standard, mut machine) = self.prepare_kvm()?;
        self.moments.confined = Stamp::now();
        self.moments.first_instruction = self.moments.confined;
        let mut first_exit = Stamp::default();
        let outcome = machine.run(|| {
            first_exit = Stamp::now();
            crate::memory::give_back();
        });
        if let Ok(outcome) = &outcome {
            machine.trace_end(outcome);
        }
        // The guest may have put other files there, and have bounded their number.
        crate::descriptors::bound(u64::MAX).map_err(|error| RunError::Standard(error.into()))?;
        standard.give_back().map_err(RunError::Standard)?;
        let outcome = outcome?;
        self.moments.first_exit = first_exit;
        self.moments.end = Stamp::now();
        let mut report = self.report(&outcome, HostUsage::of_this_process());
        report.guest_faults = machine.guest_faults();
        report.exits = Some(machine.exits());
        machine.look(|linux| {
            report.syscalls = Some(linux.counts());
            report.unserved = linux.unserved().clone();
            let memory = linux.memory();
            report.mapped = memory.counts();
            report.taken_bytes = Some(memory.limit() - memory.free());
        });
        Ok(report)
    }

    /// Makes the machine, and confines this process. What of the stack this takes is given back once the
    /// guest has run, so it must not be part of [`Self::run_kvm`]'s.
    #[inline(never)]
    fn prepare_kvm(&mut self) -> Result<(Standard, Box<Machine>), RunError> {
        let standard = Standard::prepare(self.options.network).map_err(RunError::Standard)?;
        let trace = self.trace(&standard)?;
        let network = self.options.network;
        let settings = Settings {
            network,
            limits: self.options.limits.clone(),
            processors: self.options.processors.into(),
        };
        let processors = self.options.processors;
        let (plan, backing) = (&self.plan, self.options.backing);
        let shell = Shell::new(processors)?;
        let memory = kvm::memory(plan, &self.segments, backing, processors)?;
        // Before a processor runs: KVM has a thread of its own in this process then, and the kernel makes no user
        // namespace for one of several threads.
        let world = self.enter_world()?;
        let linux = |memory| Linux::new(memory, settings);
        let machine = Machine::new(shell, memory, &self.plan, &self.start, linux)?;
        let mut machine = Box::new(machine);
        if self.options.count_faults {
            machine.count_faults();
        }
        self.moments.mapped = Stamp::now();
        if world.is_none() {
            machine.open_devices();
        }
        let layout = world.as_ref().map(|world| world.layout().clone());
        let confinement =
            sandbox::Confinement::prepare(world.as_ref(), network, &self.options.limits)?;
        drop((world, std::mem::take(&mut self.grants)));
        confinement.enter_monitor(|| machine.start_threads())??;
        if let Some(trace) = trace {
            machine.trace(trace);
        }
        machine.settle(layout).map_err(RunError::Standard)?;
        Ok((standard, machine))
    }

    fn run_process(mut self) -> Result<Report, RunError> {
        let standard = Standard::prepare(self.options.network).map_err(RunError::Standard)?;
        let trace = self.trace(&standard)?;
        let guest = process::Guest {
            plan: &self.plan,
            segments: &self.segments,
            backing: self.options.backing,
            start: &self.start,
            processors: self.options.processors,
            grants: &self.grants,
            network: self.options.network,
            limits: &self.options.limits,
        };
        let ended = process::run(&guest, trace);
        standard.restore().map_err(RunError::Standard)?;
        let ended = ended?;
        self.moments.mapped = ended.mapped;
        self.moments.confined = ended.first_instruction;
        self.moments.first_instruction = ended.first_instruction;
        self.moments.first_exit = ended.first_instruction;
        self.moments.end = Stamp::now();
        let mut report = self.report(&ended.outcome, ended.usage);
        report.mapped = ended.counts;
        report.stops = Some(ended.stops);
        report.unserved = ended.unserved;
        Ok(report)
    }

    /// Where the guest's calls are to be printed. Opened now: later this process may open nothing.
    fn trace(&self, standard: &Standard) -> Result<Option<File>, RunError> {
        let mut file = match &self.options.trace {
            None => return Ok(None),
            Some(Output::StandardError) => standard.error().map_err(RunError::Standard)?,
            Some(Output::File(path)) => File::create(path)
                .map_err(|error| RunError::Trace(path.display().to_string(), error))?,
        };
        for Moved { part, by } in self.moved() {
            writeln!(file, "+++ {part} slides by {by} +++").map_err(RunError::Standard)?;
        }
        Ok(Some(file))
    }

    fn moved(&self) -> &[Moved] {
        self.plan.slides.as_ref().map_or(&[], Slides::moved)
    }

    /// The guest's file system, if it has one.
    fn enter_world(&self) -> Result<Option<World>, RunError> {
        if self.grants.is_empty() && !self.options.network {
            // Where poolvmm was started is not the guest's business.
            rustix::process::chdir("/").map_err(|error| RunError::Standard(error.into()))?;
            return Ok(None);
        }
        let world = World::enter(
            &self.grants,
            self.options.network,
            self.options.memory,
            PID as i32,
            self.image.program.as_bytes(),
        )?;
        Ok(Some(world))
    }

    fn report(&self, outcome: &Outcome, host: HostUsage) -> Report {
        let fault = match outcome {
            Outcome::Fault(fault) => Some(self.names.describe(fault)),
            Outcome::Exited(_) | Outcome::Signalled(_) => None,
        };
        Report {
            image: self.image.label.clone(),
            platform: self.options.platform,
            backing: self.options.backing,
            slides: self.moved().to_vec(),
            status: outcome.status(),
            fault,
            first_instruction_ns: self.moments.first_instruction,
            microseconds: self.moments.into(),
            guest_faults: None,
            exits: None,
            syscalls: None,
            stops: None,
            unserved: Unserved::default(),
            mapped: MemoryCounts::default(),
            taken_bytes: None,
            leases: self.segments.count() as u64 + 1,
            host,
        }
    }
}

/// The plan of `image` at other addresses, to which `map` is changed.
fn slid(image: &Image, map: &mut ImageMap, aslr: Aslr, memory: u64) -> Result<Plan, RunError> {
    /// Random numbers beside those of units.
    const OTHERS: usize = 8;
    let refused = |error| RunError::Slide {
        image: image.label.clone(),
        aslr,
        error,
    };
    let description = &map.description;
    let read = |object: &_| image.read_object(map, object);
    let record = slide::record(description, read)?.map_err(refused)?;
    let units = record.as_ref().map_or(1, |record| record.units().len());
    let mut random = Random::draw(units + OTHERS).map_err(refused)?;
    let slides = slide::slide(map, record, aslr, &mut random).map_err(refused)?;
    Ok(Plan::slid(map, memory, slides, &mut random)?)
}

/// What boots a kernel of this kind.
fn loader(abi: Abi) -> &'static str {
    match abi {
        Abi::Linux => "poolvmm",
        Abi::Pvh => "`qemu-system-x86_64 -kernel FILE`, Cloud Hypervisor or Firecracker",
        Abi::Multiboot => "GRUB, or as ELF32 with `qemu-system-x86_64 -kernel FILE`",
        Abi::Lxboot => "Firecracker",
    }
}
