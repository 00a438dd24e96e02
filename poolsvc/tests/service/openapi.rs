//! The OpenAPI document is what the service does: schemathesis asks everything that the document
//! allows, and what it does not.

use std::path::Path;
use std::process::Command;

use super::common::Service;

/// Runs all checks against a service; nothing may be found.
#[track_caller]
fn examine(service: &Service, options: &[&str]) {
    let sources = pool_tests::source_directory();
    let work = tempfile::tempdir().unwrap();
    let output = Command::new(sources.join("scripts/schemathesis"))
        .current_dir(work.path())
        .arg("--config-file")
        .arg(sources.join("poolsvc/tests/service/schemathesis.toml"))
        .arg("run")
        .arg(format!("{}/v1/openapi.json", service.url))
        .args([
            "--checks",
            "all",
            "--phases",
            "examples,coverage,fuzzing,stateful",
        ])
        .args([
            "--max-examples",
            "10",
            "--generation-deterministic",
            "--no-color",
        ])
        .args(options)
        .env("CARGO_TARGET_DIR", target())
        .output()
        .unwrap();
    if output.status.code() == Some(77) {
        return pool_tests::requirements::lacks("schemathesis, which pip cannot install");
    }
    let says = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{says}");
    // It has asked for everything that it was to ask for.
    let number = |word: &str| {
        let after = says.split(word).nth(1)?;
        let digits = after
            .trim_start()
            .split(|c: char| !c.is_ascii_digit())
            .next()?;
        digits.parse::<u32>().ok()
    };
    let (selected, tested) = (number("Selected:"), number("Tested:"));
    assert!(
        selected == tested && selected.is_some_and(|count| count > 30),
        "{says}"
    );
}

/// The target directory that this test was built in.
fn target() -> std::path::PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_poolsvc"));
    program.ancestors().nth(2).unwrap().to_owned()
}

#[test]
fn schemathesis_finds_nothing_in_a_service_without_tokens() {
    let service = Service::start(&[]);
    // The first token would close the service to all later requests of this run; making tokens is
    // asked of the service that has one.
    examine(&service, &["--exclude-operation-id", "tokens_add"]);
}

#[test]
fn schemathesis_finds_nothing_in_a_service_with_tokens() {
    // Of the configuration, so that a run which finds its name cannot remove it and open the service.
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("poolsvc.toml");
    let secret = "a secret of many characters";
    let digest = pool_core::ObjectId::of(secret.as_bytes());
    let token = format!("[[token]]\nname = 'ops'\nscope = 'admin'\ndigest = '{digest}'\n");
    std::fs::write(&config, token).unwrap();
    let service = Service::start(&["--config", config.to_str().unwrap()]);
    let header = format!("Authorization: Bearer {secret}");
    examine(&service, &["--header", &header]);
}
