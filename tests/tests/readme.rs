//! The README's session, run as it stands.
//!
//! Every line that begins with `$ ` in a `console` block is a command, run in one shell, in an
//! empty directory; lines after it are what it must print. Only the port is another, so that
//! nothing else on the machine is in the way. `sh` blocks are make's doors: each must be one.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use pool_tests::host::program_directory;
use pool_tests::requirements::needs;
use pool_tests::wait::PATIENCE;

/// A command and the output that the README shows for it.
type Step = (String, Vec<String>);

fn steps(readme: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut in_session = false;
    for line in readme.lines() {
        if line.starts_with("```") {
            in_session = line == "```console";
        } else if in_session {
            match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => steps.push((command.to_owned(), Vec::new())),
                (None, Some(step)) => step.1.push(line.to_owned()),
                (None, None) => {}
            }
        }
    }
    steps
}

/// One script of all steps: each is announced, run, and compared with what the README shows.
fn script(steps: &[Step]) -> String {
    let mut parts = vec![
        "set -eu".to_owned(),
        "trap 'umount -l pool 2>/dev/null || true; kill %1 2>/dev/null || true; wait' EXIT".into(),
    ];
    for (nth, (command, expected)) in steps.iter().enumerate() {
        let command = command
            .replace("127.0.0.1:7420", "$address")
            .replace("poolsvc ", "poolsvc --listen 127.0.0.1:0 ");
        parts.push(format!("echo 'step: {}'", command.replace('\'', "\"")));
        if let Some(service) = command.strip_suffix(" &") {
            // It prints where it listens once it answers, which the next commands need.
            let patience = PATIENCE.as_secs();
            parts.push("mkfifo said".into());
            parts.push(format!("{service} >said 2>service.log &"));
            parts.push("exec 9<said".into());
            parts.push(format!("read -r -t {patience} -u 9 POOL_SERVER"));
            parts.push("export POOL_SERVER; address=${POOL_SERVER#http://}".into());
            continue;
        }
        parts.push(format!("{{ {command}\n}} >out.{nth}"));
        if !expected.is_empty() {
            let expected = expected.join("\n");
            parts.push(format!(
                "cat >expected.{nth} <<'EXPECTED'\n{expected}\nEXPECTED"
            ));
            parts.push(format!("diff expected.{nth} out.{nth}"));
        }
    }
    parts.join("\n")
}

#[test]
fn the_session_works_as_written() -> Result<()> {
    if !needs(&["root", "kvm", "fuse"]) {
        return Ok(());
    }
    let readme = pool_tests::source_directory().join("README.md");
    let steps = steps(&fs::read_to_string(readme)?);
    ensure!(
        steps.len() > 15,
        "the README has only {} steps",
        steps.len()
    );
    let scratch = tempfile::Builder::new()
        .prefix("pool-readme-")
        .tempdir_in("/var/tmp")?;
    let path = std::env::var("PATH").context("PATH")?;
    // No process of it outlives this one, whatever ends that.
    let output = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child", "--mount-proc", "--mount"])
        .args(["--propagation", "private", "bash", "-c", &script(&steps)])
        .current_dir(scratch.path())
        .env("PATH", format!("{}:{path}", program_directory()?.display()))
        .env_remove("POOL_REGISTRY")
        .stdin(Stdio::null())
        .output()?;
    ensure!(
        output.status.success(),
        "the session failed:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Every `make DOOR` that the README names is one that `make help` tells of.
#[test]
fn the_doors_are_there() -> Result<()> {
    let sources = pool_tests::source_directory();
    let readme = fs::read_to_string(sources.join("README.md"))?;
    let help = Command::new("make")
        .args(["--silent", "-C"])
        .arg(&sources)
        .arg("help")
        .output()?;
    let help = String::from_utf8(help.stdout)?;
    let mut doors = 0;
    let named = readme.lines().flat_map(|line| {
        let in_text = line.split("`make ").skip(1);
        in_text.chain(line.strip_prefix("make "))
    });
    for door in named.filter_map(|rest| rest.split(|c: char| !c.is_ascii_lowercase()).next()) {
        doors += 1;
        ensure!(
            help.contains(&format!("make {door} ")),
            "make help does not tell of `make {door}`"
        );
    }
    ensure!(doors >= 6, "the README names only {doors} doors");
    Ok(())
}
