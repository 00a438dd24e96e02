//! The manual pages that are written by hand name the options that the programs have, and no others.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use pool_tests::host::program_directory;
use pool_tests::requirements::needs;
use pool_tests::source_directory;

const PAGES: [(&str, &str); 3] = [
    ("poolsvc", "poolsvc/poolsvc.8"),
    ("poolfs", "poolfs/poolfs.8"),
    ("poolvmm", "vmm/poolvmm.1"),
];

/// Every `--option` that begins a word of `text`.
fn options(text: &str) -> BTreeSet<String> {
    text.split(|letter: char| !(letter == '-' || letter.is_ascii_lowercase()))
        .filter(|word| word.strip_prefix("--").is_some_and(|name| !name.is_empty()))
        .map(str::to_owned)
        .collect()
}

/// What `poolfs -o` takes, as help and page list it.
const MOUNT_OPTIONS: [&str; 8] = [
    "allow_other",
    "allow_root",
    "default_permissions",
    "noexec",
    "nopassthrough",
    "fsname=",
    "threads=",
    "scratch=",
];

#[test]
fn pages_have_the_options_that_the_programs_have() -> Result<()> {
    for (program, page) in PAGES {
        let text = fs::read_to_string(source_directory().join(page)).context(page)?;
        let plain = text.replace("\\-", "-");
        let help = Command::new(program_directory()?.join(program))
            .arg("--help")
            .output()
            .with_context(|| format!("running {program}"))?;
        ensure!(help.status.success(), "{program} --help failed");
        let help = String::from_utf8(help.stdout)?;
        let described = plain
            .split(".SH OPTIONS")
            .nth(1)
            .and_then(|rest| rest.split(".SH").next())
            .with_context(|| format!("{page} has no options"))?;
        // Tags of paragraphs.
        let tags: String = described
            .split(".TP\n")
            .skip(1)
            .filter_map(|paragraph| paragraph.lines().next())
            .map(|tag| tag.replace("\\fB", " ").replace("\\fR", " "))
            .collect();
        let told: BTreeSet<String> = options(&help)
            .into_iter()
            .filter(|option| option != "--store" || program != "poolfs")
            .collect();
        ensure!(
            options(&tags) == told,
            "{page} has {:?}, {program} --help {told:?}",
            options(&tags)
        );
        if program == "poolfs" {
            for option in MOUNT_OPTIONS {
                ensure!(
                    plain.contains(option) && help.contains(option),
                    "{option} is missing"
                );
            }
        }
    }
    Ok(())
}

/// man(1) finds nothing to complain of in any page, those of `pool` included.
#[test]
fn pages_are_well_formed() -> Result<()> {
    if !needs(&["groff"]) {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let made = Command::new(program_directory()?.join("pool"))
        .arg("man")
        .arg(directory.path())
        .status()?;
    ensure!(made.success(), "pool man failed");
    let mut pages: Vec<_> = fs::read_dir(directory.path())?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    ensure!(pages.len() > 20, "only {} pages", pages.len());
    pages.extend(PAGES.map(|(_, page)| source_directory().join(page)));
    for page in pages {
        let output = Command::new("groff")
            .args(["-man", "-Tutf8", "-ww", "-z"])
            .arg(&page)
            .output()?;
        let says = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success() && says.is_empty(),
            "{}: {says}",
            page.display()
        );
    }
    Ok(())
}
