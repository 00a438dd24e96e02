//! A guest, or whoever else has a file of the mount open, is named as the one who keeps it.

use std::fs::{self, File};

use anyhow::{Context, Result, ensure};
use pool_tests::host::Host;
use pool_tests::requirements::needs;
use serde_json::json;

#[test]
fn whoever_has_a_file_of_the_mount_open_is_named() -> Result<()> {
    if !needs(&["root", "fuse"]) {
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let work = directory.path();
    let host = Host::start(&work.join("host"), &[])?;
    let content = work.join("content");
    fs::write(&content, [7; 10_000])?;
    let content = content.to_str().context("a path of ASCII")?;
    host.pool(&["push", "lib", content, "--name", "z", "--version", "1.0"])?;
    let store = host.store();
    let store = store.to_str().context("a path of ASCII")?;
    let leases = || host.pool(&["leases", "--store", store]);
    let found = leases()?;
    ensure!(found["users"] == json!([]), "{found}");

    let open = File::open(host.mount_point().join("libs/z/1.0/content"))?;
    let found = leases()?;
    let users = found["users"].as_array().context("a list")?;
    ensure!(users.len() == 1, "{found}");
    ensure!(users[0]["pid"] == std::process::id(), "{found}");
    ensure!(users[0]["open"] == json!(["lib/z@1.0"]), "{found}");
    // The mount has the lease for it.
    let holders = found["holders"].as_array().context("a list")?;
    let mount = holders.iter().find(|holder| holder["program"] == "poolfs");
    let mount = mount.with_context(|| format!("no mount: {found}"))?;
    ensure!(
        mount["objects"][0]["names"] == json!(["lib/z@1.0"]),
        "{found}"
    );
    drop(open);
    ensure!(leases()?["users"] == json!([]));
    Ok(())
}
