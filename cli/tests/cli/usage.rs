//! How the program speaks to people and scripts: help, exit statuses, tokens, pipes.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use crate::common::{BUSYBOX, Pool};

#[test]
fn wrong_use_is_told_from_failure() {
    let mut pool = Pool::start();
    for wrong in [
        &["no-such-verb"][..],
        &[],
        &["cat"],
        &["cat", "zlib"],
        &["cat", "image/../x:1"],
        &["push", "image", BUSYBOX, "--name", "a/b", "--tag", "v1"],
        &["push", "lib", BUSYBOX, "--name", "..", "--version", "v1"],
        &["gc", "--grace", "soon"],
    ] {
        pool.refused(2, wrong);
    }
    std::fs::write(pool.path("text"), "#!/bin/sh\n").unwrap();
    std::fs::write(pool.path("empty"), "").unwrap();
    for (failing, word) in [
        (&["cat", "image/none:v1"][..], "there is no"),
        (
            &["push", "image", "text", "--name", "a", "--tag", "b"],
            "describing text",
        ),
        (
            &["push", "lib", "empty", "--name", "a", "--version", "b"],
            "empty",
        ),
        (
            &["push", "image", "absent", "--name", "a", "--tag", "b"],
            "absent",
        ),
        (&["describe", "/bin/sh"], "static"),
        (&["tag", "lib/a@1", "image/a:1"], "image/NAME:TAG"),
        (&["pin", "image/a:1"], "lib/NAME@VERSION"),
        (&["--server", "ftp://x", "ls"], "http://HOST:PORT"),
        (&["fsck", "--store", "text"], "not a pool store"),
    ] {
        let says = pool.refused(1, failing);
        assert!(says.contains(word), "{failing:?}: {says}");
        assert!(says.starts_with("pool: "), "{says}");
    }
    pool.end();
    let says = pool.refused(1, &["ls"]);
    assert!(says.contains("check that poolsvc runs"), "{says}");
    assert_eq!(says.matches("refused").count(), 1, "{says}");
}

#[test]
fn tokens_are_made_shown_and_used() {
    let pool = Pool::start();
    let secret = pool.text(&["token", "add", "ops", "--scope", "admin"]);
    let secret = secret.trim();
    let says = pool.refused(1, &["ls"]);
    assert!(says.contains("POOL_TOKEN"), "{says}");
    let with = |arguments: &[&str]| {
        let output = pool.command(arguments).env("POOL_TOKEN", secret).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stdout).unwrap()
    };
    let list = with(&["token", "ls"]);
    assert!(list.contains("ops") && list.contains("admin") && !list.contains(secret));
    with(&["token", "rm", "ops"]);
    pool.text(&["ls"]);
}

#[test]
fn a_closed_pipe_is_no_error() {
    let pool = Pool::start();
    pool.text(&["push", "image", BUSYBOX, "--name", "bb", "--tag", "v1"]);
    let mut child = pool
        .command(&["cat", "image/bb:v1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn each_verb_has_help_and_a_manual_page() {
    let pool = Pool::start();
    let help = pool.text(&["--help"]);
    pool.text(&["man", "man"]);
    let verbs = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| !line.is_empty());
    let mut count = 0;
    for verb in verbs.filter_map(|line| line.split_whitespace().next()) {
        if verb == "help" {
            continue;
        }
        count += 1;
        let page = pool.path("man").join(format!("pool-{verb}.1"));
        assert!(page.exists(), "{verb}");
        if verb != "link" {
            assert!(
                pool.text(&[verb, "--help"]).contains("Usage: pool"),
                "{verb}"
            );
        }
    }
    assert_eq!(count, 18);
}

#[test]
fn progress_is_not_printed_into_files() {
    let pool = Pool::start();
    let mut child = pool
        .command(&["push", "image", BUSYBOX, "--name", "bb", "--tag", "v1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let errors = BufReader::new(child.stderr.take().unwrap());
    assert_eq!(errors.lines().count(), 0);
    assert!(child.wait().unwrap().success());
}
