//! `pool push`: put libraries and images into the pool, sending only the pages that it lacks.

mod list;

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use pool_api::announce;
use pool_api::client::{Client, ClientError, PushOptions, PushReport};
use pool_core::name::{ImageRef, LibraryRef, Name, Named};
use pool_core::page::PAGE_SIZE;

use crate::ending::Ending;
use crate::{Global, file, output, server};

/// Put libraries and images into the pool
///
/// Pages that the pool has are not sent. While too many others push it waits, at most as long as for
/// a service that says nothing. Interrupted, it gives up what it has begun.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  pool push image app.elf --name app --tag v1\n  \
                  pool push lib zlib.pages --name zlib --version 1.3\n  \
                  echo 'image/app:v1 build/app.elf' | pool push list -"
)]
pub(crate) struct Push {
    #[command(subcommand)]
    what: What,
    /// Connections that send pages at the same time; files of a list share them, and each has one
    #[arg(long, value_name = "COUNT", default_value_t = usual_connections(), global = true)]
    connections: NonZero<usize>,
    /// Push nothing under a name that is in the pool already, and exit with 3 for that
    #[arg(long, global = true)]
    only_new: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Push a library's content under a version, which never changes
    Lib {
        /// The content, or - for standard input
        file: PathBuf,
        /// The library
        #[arg(long)]
        name: Name,
        /// Its version
        #[arg(long)]
        version: Name,
    },
    /// Push a static executable under a tag
    Image {
        /// The executable, or - for standard input
        elf: PathBuf,
        /// The image
        #[arg(long)]
        name: Name,
        /// Its tag
        #[arg(long)]
        tag: Name,
    },
    /// Push what a list says: a name and a file on each line, several at a time
    ///
    /// A line is image/NAME:TAG or lib/NAME@VERSION, and the file, whose name may have spaces. Empty lines
    /// and those that begin with # say nothing. After a push that fails no other is begun; that a name is there
    /// already (--only-new) is no failure of the others.
    List {
        /// The list, or - for standard input
        list: PathBuf,
        /// Files that are pushed at the same time
        #[arg(long, short, value_name = "COUNT", default_value_t = USUAL_JOBS)]
        jobs: NonZero<usize>,
        /// Go on with the others after one that fails
        #[arg(long, short)]
        keep_going: bool,
    },
}

/// One is sent while the next is read and the last waits for the disk.
const USUAL_JOBS: NonZero<usize> = NonZero::<usize>::MIN.saturating_add(3);

fn usual_connections() -> NonZero<usize> {
    NonZero::new(PushOptions::default().connections).unwrap_or(NonZero::<usize>::MIN)
}

impl Push {
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode> {
        let options = PushOptions {
            connections: self.connections.get(),
            only_new: self.only_new,
            waiting,
            ..PushOptions::default()
        };
        let (name, file) = match self.what {
            What::Lib {
                file,
                name,
                version,
            } => (Named::Library(LibraryRef { name, version }), file),
            What::Image { elf, name, tag } => (Named::Image(ImageRef { name, tag }), elf),
            What::List {
                list,
                jobs,
                keep_going,
            } => {
                let entries = list::parse(&file::read(&list)?)
                    .with_context(|| format!("reading {}", list.display()))?;
                return push_all(global, &entries, options, jobs, keep_going);
            }
        };
        let under_way = UnderWay::begin(global, "{pos}/{len} pages, {per_sec}, {eta} left")?;
        let pushed = push(&under_way.client, &name, &file, options, &|done, total| {
            under_way.bar.set_length(total);
            under_way.bar.set_position(done);
        });
        under_way.end();
        output::print(global.json, &pushed?, text)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn push_all(
    global: &Global,
    entries: &[list::Entry],
    options: PushOptions,
    jobs: NonZero<usize>,
    keep_going: bool,
) -> Result<ExitCode> {
    let under_way = UnderWay::begin(global, "{pos}/{len} pushed, {eta} left")?;
    under_way.bar.set_length(entries.len() as u64);
    let outcomes = list::push_all(
        entries,
        jobs,
        keep_going,
        |entry| {
            push(
                &under_way.client,
                &entry.name,
                &entry.file,
                options,
                &|_, _| (),
            )
        },
        |done| under_way.bar.set_position(done as u64),
    );
    under_way.end();
    output::print(global.json, &outcomes, |outcomes| list::table(outcomes))?;
    if let Some(failure) = list::failure(&outcomes, entries.len()) {
        bail!(failure);
    }
    match list::those_there(&outcomes) {
        None => Ok(ExitCode::SUCCESS),
        Some(says) => bail!(IsThere(says)),
    }
}

/// Names that `--only-new` was asked not to touch are in the pool: what is to be said of that.
#[derive(Debug)]
pub(crate) struct IsThere(String);

impl fmt::Display for IsThere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for IsThere {}

/// Pushes a file under a name. `progress` is called with pages sent and pages to send.
fn push(
    client: &Client,
    name: &Named,
    file: &Path,
    options: PushOptions,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<PushReport> {
    let content = file::read(file)?;
    let pushed = match name {
        Named::Library(_) if content.is_empty() => {
            bail!("{} is empty: there is nothing to push", file.display())
        }
        Named::Library(library) => {
            let announced = announce::library(&content, library.clone());
            client.push(&announced, options, progress)
        }
        Named::Image(image) => {
            let described = pool_image::describe::describe(&content)
                .with_context(|| format!("describing {}", file.display()))?;
            let announced = announce::image(&described, image.clone());
            client.push(&announced, options, progress)
        }
    };
    pushed.map_err(|error| match error {
        // The one condition that a push makes.
        ClientError::Refused { status: 412, .. } if options.only_new => IsThere(format!(
            "{name} is in the pool already, and was not pushed (--only-new)"
        ))
        .into(),
        error => error.into(),
    })
}

/// Pushes that are under way: given up if this process is told to end.
struct UnderWay {
    client: Client,
    ending: Ending,
    bar: ProgressBar,
}

impl UnderWay {
    /// `shown` is what the bar says beside itself.
    fn begin(global: &Global, shown: &str) -> Result<Self> {
        let client = server::client(global)?;
        let begun = client.clone();
        let ending = Ending::after(move || begun.give_up()).context("waiting for signals")?;
        let bar = if io::stderr().is_terminal() && !global.json {
            ProgressBar::new(0)
        } else {
            ProgressBar::hidden()
        };
        bar.set_style(
            ProgressStyle::with_template(&format!("{{bar:32}} {shown}"))
                .unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        Ok(Self {
            client,
            ending,
            bar,
        })
    }

    fn end(self) {
        self.ending.wait_if_told();
        self.bar.finish_and_clear();
    }
}

/// Says why nothing is to be seen.
fn waiting(why: &str, patience: Option<Duration>) {
    let patience = patience.map_or_else(
        || "until there is room".to_owned(),
        |patience| format!("at most {} seconds", patience.as_secs()),
    );
    let why = output::harmless(why);
    // Nobody may be there to hear it.
    let _ = writeln!(
        io::stderr(),
        "pool: waiting, {patience} (--timeout), since {why}"
    );
}

fn text(report: &PushReport) -> String {
    let summary = &report.summary;
    let pages = |count: u64| output::bytes(count * PAGE_SIZE);
    let sent_pages = (report.sent_memory_pages + report.sent_symbol_pages) * PAGE_SIZE;
    output::pairs(&[
        ("pushed", summary.target.clone()),
        ("object", summary.object.to_string()),
        (
            "pages",
            format!(
                "{} in all, {} in known objects, {} zero, {} distinct, {} new",
                summary.pages,
                summary.known_pages,
                summary.zero_pages,
                summary.distinct_pages,
                summary.new_pages
            ),
        ),
        (
            "windows",
            format!(
                "{} new, {} shared",
                summary.new_windows, summary.shared_windows
            ),
        ),
        (
            "sent",
            format!(
                "{}: {} code and data, {} symbols and headers, {} digests and description; {} known",
                output::bytes(report.sent_bytes),
                pages(report.sent_memory_pages),
                pages(report.sent_symbol_pages),
                output::bytes(report.sent_bytes.saturating_sub(sent_pages)),
                pages(report.unsent_pages)
            ),
        ),
    ])
}
