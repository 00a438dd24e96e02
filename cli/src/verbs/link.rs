//! `pool link`: a linker that puts each library at its registered address.
//!
//! A drop-in for `ld`: everything behind `link` is the linker's command line, and a program that
//! is called `ld` is `pool link`. Where addresses come from is decided by what is *said*, never by
//! what happens to be reachable, because a link must not come out differently when a service is
//! down:
//!
//! 1. `--pool-registry WHERE` on the command line, or `--server URL` before the verb, else
//! 2. the environment's `POOL_REGISTRY`, else
//! 3. the environment's `POOL_SERVER`, else
//! 4. the service at its usual address.
//!
//! `WHERE` is the address of a service, or a file.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Args, CommandFactory as _};
use pool_api::client::Client;
use pool_core::registry::{Reservation, ReservationRequest};
use pool_image::link::{FileRegistry, Registry, RegistryError, link, parse_args};

use crate::{Cli, Global, file, server};

const REGISTRY: &str = "--pool-registry";
const LAYOUT: &str = "--pool-layout";

/// Link a static executable with each library at its registered address
///
/// Everything behind the verb is an ordinary linker command line; compilers call it as `ld`.
/// Addresses come from `--pool-registry WHERE`, else `--server` before the verb, else `POOL_REGISTRY`,
/// else `POOL_SERVER`, else the service at its usual address; WHERE is `http://HOST:PORT`, `https://HOST:PORT`, `unix:/PATH`
/// or a file. An unreachable service is an error, never replaced by something else.
/// `--pool-layout FILE` writes where the libraries lie, which the executable also holds.
/// `--pool-library ARCHIVE=NAME@VERSION` names the library that an archive is; without it the
/// name is the archive's and the version a digest.
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    after_help = "Examples:\n  ln -s \"$(command -v pool)\" bin/ld && cc -static -B bin/ app.c -lz\n  \
                  pool link --pool-registry addresses.json -o app crt1.o app.o -lc"
)]
pub(crate) struct Link {
    /// The linker's command line
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGS"
    )]
    arguments: Vec<OsString>,
}

impl Link {
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode> {
        // Any `--help` on a linker's command line asks for it: configure scripts do.
        if self.arguments.iter().any(|argument| argument == "--help") {
            let mut command = Cli::command();
            command.build();
            let link = command.find_subcommand_mut("link");
            link.context("finding the help")?.print_long_help()?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut arguments = self
            .arguments
            .into_iter()
            .map(OsString::into_string)
            .collect::<Result<Vec<String>, _>>()
            .map_err(|bad| anyhow::anyhow!("{} is not UTF-8: rename the file", bad.display()))?;
        let named = take_option(&mut arguments, REGISTRY)?;
        let layout = take_option(&mut arguments, LAYOUT)?;
        let request = parse_args(&arguments)?;
        if request.show_version {
            // Build systems look for the words "GNU ld" to learn which options they may use.
            let version = concat!("GNU ld compatible pool link ", env!("CARGO_PKG_VERSION"));
            writeln!(io::stdout(), "{version}").context("printing the version")?;
            if request.inputs.is_empty() {
                return Ok(ExitCode::SUCCESS);
            }
        }
        let mut registry = open_registry(named, global)?;
        let linked = link(&request, registry.as_mut())
            .with_context(|| format!("linking {}", request.output.display()))?;
        for warning in &linked.warnings {
            // Nobody may be there to be warned.
            let _ = writeln!(io::stderr(), "pool link: warning: {warning}");
        }
        file::write(&request.output, &linked.elf, file::EXECUTABLE)?;
        if let (Some(path), Some(map)) = (&request.map, &linked.map) {
            file::write(path, map.as_bytes(), file::DATA)?;
        }
        if let Some(path) = layout {
            let layout = serde_json::to_vec_pretty(&linked.layout)?;
            file::write(Path::new(&path), &layout, file::DATA)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Takes an option of our own and its value out of a linker's command line, the last one if it is
/// there more than once.
fn take_option(arguments: &mut Vec<String>, option: &str) -> Result<Option<String>> {
    let mut named = None;
    let mut rest = Vec::with_capacity(arguments.len());
    let mut all = std::mem::take(arguments).into_iter();
    while let Some(argument) = all.next() {
        match argument.strip_prefix(option) {
            Some("") => match all.next() {
                Some(value) => named = Some(value),
                None => bail!("{option} wants a value behind it"),
            },
            Some(value) if value.starts_with('=') => named = Some(value[1..].to_owned()),
            _ => rest.push(argument),
        }
    }
    *arguments = rest;
    Ok(named)
}

fn open_registry(named: Option<String>, global: &Global) -> Result<Box<dyn Registry>> {
    let place = named.or_else(|| {
        // `global.server` is then what the command line says.
        let in_environment = std::env::var("POOL_REGISTRY").ok();
        in_environment.filter(|place| !global.server_is_said && !place.is_empty())
    });
    if let Some(place) = &place {
        let is_service = ["http://", "https://", "unix:"]
            .iter()
            .any(|scheme| place.starts_with(scheme));
        if !is_service {
            return Ok(Box::new(FileRegistry::new(Path::new(place))));
        }
    }
    let server = place.as_deref().unwrap_or(&global.server);
    let client = server::connect(server, global)?;
    Ok(Box::new(ServiceRegistry(client)))
}

/// The registry that a pool service keeps.
struct ServiceRegistry(Client);

impl Registry for ServiceRegistry {
    fn reserve(
        &mut self,
        requests: &[ReservationRequest],
    ) -> Result<Vec<Reservation>, RegistryError> {
        self.0.reserve(requests).map_err(|error| {
            // With what caused it, for which there is no other place.
            let error = anyhow::Error::from(error);
            let server = self.0.server();
            RegistryError::Other(format!("reserving them at {server}: {error:#}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_is_taken_out_of_the_linkers_arguments() {
        for (given, registry, rest) in [
            ("-o a x.o", None, "-o a x.o"),
            (
                "-o a --pool-registry r.json x.o",
                Some("r.json"),
                "-o a x.o",
            ),
            ("--pool-registry=r.json x.o", Some("r.json"), "x.o"),
            ("--pool-registry=a --pool-registry b", Some("b"), ""),
            ("--pool-library x=y@1", None, "--pool-library x=y@1"),
        ] {
            let mut arguments: Vec<_> = given.split(' ').map(str::to_owned).collect();
            let named = take_option(&mut arguments, REGISTRY).unwrap();
            assert_eq!(named.as_deref(), registry, "{given}");
            assert_eq!(arguments.join(" "), rest, "{given}");
        }
        assert!(take_option(&mut vec!["--pool-registry".into()], REGISTRY).is_err());
    }
}
