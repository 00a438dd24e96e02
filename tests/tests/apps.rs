//! Real programs that are quick to build, natively and on both platforms, as `apps/` describes them.
//! `make apps-check` is for all of them.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use pool_tests::requirements::needs;
use pool_tests::source_directory;

fn passes(script: &str, option: &str) -> Result<()> {
    let output = Command::new(source_directory().join("apps").join(script))
        .arg(option)
        .env(
            "POOL_APPS_CACHE",
            Path::new(env!("CARGO_TARGET_TMPDIR")).join("apps"),
        )
        .output()
        .with_context(|| format!("starting apps/{script}"))?;
    ensure!(
        output.status.success(),
        "apps/{script}:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[test]
fn quick_programs_run_on_both_platforms_as_they_do_natively() -> Result<()> {
    if !needs(&["root", "kvm", "fuse"]) {
        return Ok(());
    }
    passes("build", "--quick")?;
    passes("check", "--quick")
}

#[test]
fn the_list_of_programs_is_what_their_descriptions_say() -> Result<()> {
    passes("list", "--check")
}
