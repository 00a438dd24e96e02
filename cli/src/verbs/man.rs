//! `pool man`: manual pages, for packagers.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Command, CommandFactory as _};
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
            let page = Page::new(command.clone()).source(SOURCE).manual(MANUAL);
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
    page.render_title(to)?;
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
    for part in after.iter().flat_map(|after| after.split("\n\n")) {
        match part.split_once(':') {
            Some(("Example" | "Examples", examples)) => {
                let examples = roff(examples.trim_start_matches('\n'));
                write!(to, ".SH EXAMPLES\n.nf\n{examples}.fi\n")?;
            }
            Some(("Exit codes", codes)) => {
                write!(to, ".SH EXIT STATUS\n{}", roff(codes.trim_start()))?;
            }
            _ => write!(to, ".SH NOTES\n{}", roff(part))?,
        }
    }
    to.write_all(
        b".SH SEE ALSO\n.BR pool (1),\n.BR poolvmm (1),\n.BR poolfs (8),\n.BR poolsvc (8)\n",
    )
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
