//! What the demo reports: `report.json`, and the same as a table.

use std::fmt;

use serde::Serialize;

use crate::measure::ratio;

/// One way of running a set of instances.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Instances {
    /// Bytes of the host that one more guest takes once the first runs: what the kernel charges to
    /// it, the kernel's own structures included.
    pub(crate) bytes_per_further_instance: u64,
    /// The same over all instances, the first with what it brought into memory.
    pub(crate) bytes_per_instance: u64,
    /// Proportional set size of an instance, in bytes.
    pub(crate) pss_per_instance: u64,
    /// From exec to the guest's first instruction: median, in microseconds.
    pub(crate) start_us: f64,
    /// From exec to the guest's end: median, in microseconds.
    pub(crate) run_us: f64,
    /// Page faults of the host's side of one run: median.
    pub(crate) host_faults: f64,
    /// Page faults that KVM served for one run's guest: median.
    pub(crate) guest_faults: f64,
}

/// The same instances both ways.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Comparison {
    /// How many ran at once.
    pub(crate) instances: usize,
    /// Which images.
    pub(crate) images: Vec<String>,
    /// Loaded privately.
    pub(crate) copy: Instances,
    /// Mapped from the pool.
    pub(crate) pool: Instances,
}

/// What went over the wire.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Upload {
    /// Bytes of all executables pushed.
    pub(crate) elf_bytes: u64,
    /// Bytes sent for them: pages, and what lists their digests.
    pub(crate) sent_bytes: u64,
}

/// What deduplication did.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Pages {
    /// Pages of all objects pushed, zero pages left out.
    pub(crate) pushed: u64,
    /// Distinct pages that the pool keeps.
    pub(crate) stored: u64,
}

/// What a collection gave back while a guest ran.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Collection {
    /// Bytes of disk freed while the guest ran.
    pub(crate) freed_bytes_while_running: u64,
    /// Bytes of disk that only the guest's lease kept: by then no name referred to anything.
    pub(crate) leased_bytes_while_running: u64,
    /// Bytes of disk freed in all, after it ended.
    pub(crate) freed_bytes: u64,
    /// Library versions removed.
    pub(crate) libraries: u64,
    /// The guest went on to its correct result.
    pub(crate) guest_undisturbed: bool,
}

/// One program, run every way.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Program {
    /// The image.
    pub(crate) image: String,
    /// Ways in which its output equals the native run's: `PLATFORM/BACKING`.
    pub(crate) equal: Vec<String>,
}

/// Everything that the demo found.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    /// Each program's output, against a native run.
    pub(crate) programs: Vec<Program>,
    /// Many instances of one image.
    pub(crate) identical: Comparison,
    /// One instance of each image.
    pub(crate) different: Comparison,
    /// Uploads.
    pub(crate) upload: Upload,
    /// Pages.
    pub(crate) pages: Pages,
    /// Collection under a running guest.
    pub(crate) gc: Collection,
}

/// Why a figure that is meant to show sharing can be higher with more of it.
const PSS_NOTE: &str = "  (PSS divides a page among the processes that map it. The pool is mapped by whole 2 MiB windows, padding\n  \
   included, and these images have few mappers each: a window with one counts in full. It is page cache,\n  \
   there once, and not taken again by the next guest: the table's first line says what that takes.)";

fn kib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, of: &dyn Fn(&Instances) -> f64| {
            let (copy, pool) = (of(&self.copy), of(&self.pool));
            writeln!(
                f,
                "  {name:<50}{copy:>10.0}{pool:>10.0}{:>9.2}",
                ratio(pool, copy)
            )
        };
        row("host memory that one more guest takes (KiB)", &|i| {
            kib(i.bytes_per_further_instance)
        })?;
        row("  over all of them, the first included (KiB)", &|i| {
            kib(i.bytes_per_instance)
        })?;
        row(
            "  proportional set size (KiB)",
            &|i| kib(i.pss_per_instance),
        )?;
        row("exec to first guest instruction (us, median)", &|i| {
            i.start_us
        })?;
        row("exec to the guest's end (us, median)", &|i| i.run_us)?;
        row("page faults, host side of one run", &|i| i.host_faults)?;
        row("page faults, guest side of one run", &|i| i.guest_faults)
    }
}

impl Report {
    /// What whoever runs a host asks first: what one more guest takes of it.
    fn headline(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [pool, copy] = [&self.identical.pool, &self.identical.copy]
            .map(|instances| instances.bytes_per_further_instance);
        writeln!(
            f,
            "\none more guest of {} takes {:.0} KiB of the host, against {:.0} KiB with a copy of its own: {:.2} of it",
            self.identical.images.join(" "),
            kib(pool),
            kib(copy),
            ratio(pool as f64, copy as f64)
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.headline(f)?;
        writeln!(f, "\nsame output as natively:")?;
        for program in &self.programs {
            writeln!(f, "  {:<28}{}", program.image, program.equal.join("  "))?;
        }
        for (title, comparison) in [
            ("instances of", &self.identical),
            ("different instances:", &self.different),
        ] {
            writeln!(
                f,
                "\n{} {title} {}",
                comparison.instances,
                comparison.images.join(" ")
            )?;
            writeln!(f, "  {:<50}{:>10}{:>10}{:>9}", "", "copy", "pool", "ratio")?;
            write!(f, "{comparison}")?;
            if comparison.pool.pss_per_instance > comparison.copy.pss_per_instance {
                writeln!(f, "{PSS_NOTE}")?;
            }
        }
        let Upload {
            elf_bytes,
            sent_bytes,
        } = self.upload;
        writeln!(
            f,
            "\nsent       {:.0} KiB for {:.0} KiB of executables ({:.0}%), lists of digests included",
            kib(sent_bytes),
            kib(elf_bytes),
            100.0 * ratio(sent_bytes as f64, elf_bytes as f64)
        )?;
        let Pages { pushed, stored } = self.pages;
        writeln!(f, "pages      {pushed} pushed, {stored} stored")?;
        write!(f, "{}", self.gc)
    }
}

impl fmt::Display for Collection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "collected  every image deleted and {} library versions removed while a guest of one of them ran:",
            self.libraries
        )?;
        writeln!(
            f,
            "           {:>8.0} KiB freed at once",
            kib(self.freed_bytes_while_running)
        )?;
        writeln!(
            f,
            "           {:>8.0} KiB kept by the guest's lease alone: the segments that it maps, other images' pages in them included",
            kib(self.leased_bytes_while_running)
        )?;
        writeln!(
            f,
            "           {:>8.0} KiB freed in all once it had ended; its output {}",
            kib(self.freed_bytes),
            if self.guest_undisturbed {
                "was right"
            } else {
                "WAS WRONG"
            }
        )
    }
}
