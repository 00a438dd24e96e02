//! `pool push`: put a library or an image into the pool, sending only the pages that it lacks.

use std::io::{self, IsTerminal as _, Write as _};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use pool_api::announce::{self, Announcement};
use pool_api::client::{PushOptions, PushReport};
use pool_core::name::{ImageRef, LibraryRef, Name};
use pool_core::page::PAGE_SIZE;

use crate::ending::Ending;
use crate::{Global, file, output, server};

/// Put a library or an image into the pool
///
/// Pages that the pool has are not sent. While too many others push it waits, at most as long as for
/// a service that says nothing. Interrupted, it gives up what it has begun.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  pool push image app.elf --name app --tag v1\n  \
                  pool push lib zlib.pages --name zlib --version 1.3"
)]
pub(crate) struct Push {
    #[command(subcommand)]
    what: What,
    /// Connections that send pages at the same time
    #[arg(long, value_name = "COUNT", default_value_t = usual_connections(), global = true)]
    connections: NonZero<usize>,
    /// Refuse when the name is in the pool already
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
}

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
        let report = match self.what {
            What::Lib {
                file,
                name,
                version,
            } => {
                let content = file::read(&file)?;
                if content.is_empty() {
                    bail!("{} is empty: there is nothing to push", file.display());
                }
                let announced = announce::library(&content, LibraryRef { name, version });
                send(global, &announced, options)?
            }
            What::Image { elf, name, tag } => {
                push_image(global, &elf, ImageRef { name, tag }, options)?
            }
        };
        output::print(global.json, &report, text)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn push_image(
    global: &Global,
    elf: &Path,
    image: ImageRef,
    options: PushOptions,
) -> Result<PushReport> {
    let content = file::read(elf)?;
    let described = pool_image::describe::describe(&content)
        .with_context(|| format!("describing {}", elf.display()))?;
    send(global, &announce::image(&described, image), options)
}

fn send(
    global: &Global,
    announcement: &Announcement<'_>,
    options: PushOptions,
) -> Result<PushReport> {
    let client = server::client(global)?;
    let begun = client.clone();
    let ending = Ending::after(move || begun.give_up()).context("waiting for signals")?;
    let bar = if io::stderr().is_terminal() && !global.json {
        ProgressBar::new(0)
    } else {
        ProgressBar::hidden()
    };
    let style = "{bar:32} {pos}/{len} pages, {per_sec}, {eta} left";
    bar.set_style(
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let pushed = client.push(announcement, options, &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    ending.wait_if_told();
    bar.finish_and_clear();
    Ok(pushed?)
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
