//! `pool man`: manual pages, for packagers.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Arg, Args, Command, CommandFactory as _};
use clap_mangen::Man as Page;

use crate::Cli;

/// The manual that the pages belong to, and what they are pages of.
const MANUAL: &str = "poolfs manual";
const SOURCE: &str = concat!("poolfs ", env!("CARGO_PKG_VERSION"));

/// Write a manual page for each verb
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Folder to write to, made if absent
    directory: PathBuf,
}

impl Man {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let context = || format!("writing to {}", self.directory.display());
        std::fs::create_dir_all(&self.directory).with_context(context)?;
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        let mut left = vec![command];
        while let Some(command) = left.pop() {
            let page = Page::new(command.clone());
            let mut text = Vec::new();
            render(&page, &command, &mut text).with_context(context)?;
            std::fs::write(self.directory.join(page.get_filename()), text).with_context(context)?;
            left.extend(
                command
                    .get_subcommands()
                    .filter(|s| !s.is_hide_set())
                    .cloned(),
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The sections that man-pages(7) names, in its order.
fn render(page: &Page, command: &Command, to: &mut Vec<u8>) -> std::io::Result<()> {
    // clap_mangen leaves the date out, and whatever comes behind it moves to its place.
    let name = page.get_filename();
    let name = name.trim_end_matches(".1").replace('-', "\\-");
    writeln!(to, ".TH {name} 1 \"\" \"{SOURCE}\" \"{MANUAL}\"")?;
    page.render_name_section(to)?;
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim();
    write!(to, ".SH SYNOPSIS\n.nf\n{}.fi\n", roff(usage))?;
    if command.get_long_about().is_some() {
        page.render_description_section(to)?;
    }
    page.render_options_section(to)?;
    if command.has_subcommands() {
        page.render_subcommands_section(to)?;
    }
    let after = command.get_after_help().map(ToString::to_string);
    let after = after.as_deref().unwrap_or_default();
    let (mut examples, mut codes, mut notes) = (None, None, None);
    for part in after.split("\n\n").filter(|part| !part.is_empty()) {
        match part.split_once(':') {
            Some(("Example" | "Examples", text)) => examples = Some(text.trim_start_matches('\n')),
            Some(("Exit codes", text)) => codes = Some(text.trim_start()),
            _ => notes = Some(part),
        }
    }
    if let Some(codes) = codes {
        write!(to, ".SH EXIT STATUS\n{}", roff(codes))?;
    }
    render_environment(command, to)?;
    if let Some(notes) = notes {
        write!(to, ".SH NOTES\n{}", roff(notes))?;
    }
    if let Some(examples) = examples {
        write!(to, ".SH EXAMPLES\n.nf\n{}.fi\n", roff(examples))?;
    }
    to.write_all(
        b".SH SEE ALSO\n.BR pool (1),\n.BR poolvmm (1),\n.BR poolfs (8),\n.BR poolsvc (8)\n",
    )
}

/// The variables that stand for options.
fn render_environment(command: &Command, to: &mut Vec<u8>) -> std::io::Result<()> {
    let named = |argument: &Arg| {
        let variable = argument.get_env()?.to_str()?.to_owned();
        Some((variable, argument.get_long()?.to_owned()))
    };
    let named: Vec<_> = command.get_arguments().filter_map(named).collect();
    if !named.is_empty() {
        to.write_all(b".SH ENVIRONMENT\n")?;
    }
    for (variable, option) in named {
        let option = option.replace('-', "\\-");
        let says = format!("What \\fB\\-\\-{option}\\fR is where it is not given.");
        write!(to, ".TP\n\\fB{variable}\\fR\n{says}\n")?;
    }
    Ok(())
}

/// Text as roff(7) has it: no line is a request, no character an escape or a hyphen of its own.
fn roff(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    let lines = escaped.lines().flat_map(|line| ["\\&", line, "\n"]);
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_what_it_is() {
        assert_eq!(roff(".x -y\n'a\\b"), "\\&.x \\-y\n\\&'a\\eb\n");
    }
}
