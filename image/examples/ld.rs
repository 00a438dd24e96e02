//! The linker alone, as a compiler driver calls it: `cc -B DIR` with DIR/ld being this program.
//!
//! Addresses come from the registry in the file that `POOL_REGISTRY` names.

use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;

use pool_image::link::{FileRegistry, LinkRequest, Linked, link, parse_args};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ld: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let request = parse_args(&arguments)?;
    if request.question.is_some() {
        println!("pool link {}", env!("CARGO_PKG_VERSION"));
        if request.inputs.is_empty() {
            return Ok(());
        }
    }
    let registry = std::env::var_os("POOL_REGISTRY")
        .ok_or("set POOL_REGISTRY to the file that holds the address registry")?;
    let linked = link(&request, &mut FileRegistry::new(registry))?;
    report(&linked);
    write(&request, &linked)?;
    Ok(())
}

fn report(linked: &Linked) {
    for warning in &linked.warnings {
        eprintln!("ld: warning: {warning}");
    }
    if std::env::var_os("POOL_LINK_REPORT").is_some() {
        for library in &linked.libraries {
            eprintln!(
                "{}: {} shared, {} bound, {} data pages",
                library.library, library.shared, library.bound, library.data
            );
        }
    }
}

fn write(request: &LinkRequest, linked: &Linked) -> std::io::Result<()> {
    if let (Some(path), Some(map)) = (&request.map, &linked.map) {
        std::fs::write(path, map)?;
    }
    // A running program's file cannot be written to, but it can be replaced.
    match std::fs::remove_file(&request.output) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::write(&request.output, &linked.elf)?;
    std::fs::set_permissions(&request.output, std::fs::Permissions::from_mode(0o755))
}
