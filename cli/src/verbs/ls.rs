//! `pool ls`: what the pool has.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use pool_api::client::Client;
use pool_api::types::{Image, Library};
use pool_core::digest::ObjectId;
use pool_core::name::{Name, Referent};
use serde::Serialize;

use crate::output::Column::{Number, Text};
use crate::referent::{self, Folder};
use crate::{Global, WrongUse, output, server};

/// List images and library versions
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  pool ls\n  pool ls libs\n  pool ls lib/zlib\n  pool ls image/app:v1\n  pool ls /pool/libs/zlib"
)]
pub(crate) struct Ls {
    /// libs, images, the beginning of a name, a digest, or a path under the mount point
    what: Option<String>,
}

#[derive(Serialize)]
struct Listing {
    #[serde(skip_serializing_if = "Option::is_none")]
    images: Option<Vec<Image>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    libraries: Option<Vec<Library>>,
}

impl Listing {
    fn of(images: Option<Vec<Image>>, libraries: Option<Vec<Library>>) -> Self {
        Self { images, libraries }
    }
}

impl Ls {
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode> {
        let listing = list(&server::client(global)?, self.what.as_deref())?;
        output::print(global.json, &listing, text)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn list(client: &Client, what: Option<&str>) -> Result<Listing> {
    let what = what.unwrap_or("");
    let (mut images, mut libraries) = match what {
        "" => (Some(String::new()), Some(String::new())),
        "images" | "images/" | "image" | "image/" => (Some(String::new()), None),
        "libs" | "libs/" | "lib" | "lib/" => (None, Some(String::new())),
        _ => match (what.strip_prefix("image/"), what.strip_prefix("lib/")) {
            (Some(prefix), _) => (Some(prefix.to_owned()), None),
            (_, Some(prefix)) => (None, Some(prefix.to_owned())),
            _ => (None, None),
        },
    };
    if images.is_none() && libraries.is_none() {
        // A digest, a path, or the beginning of any name.
        match referent::parse(what) {
            Ok(Referent::Digest(digest)) => return list_digest(client, digest),
            Ok(Referent::Image(image)) => {
                let mut found = client.images(&image.to_string())?;
                found.retain(|listed| listed.reference() == image);
                return Ok(Listing::of(Some(found), None));
            }
            Ok(Referent::Library(library)) => {
                let mut found = client.libraries(&library.to_string())?;
                found.retain(|listed| listed.reference() == library);
                return Ok(Listing::of(None, Some(found)));
            }
            Ok(Referent::Segment(segment)) => {
                bail!(WrongUse(format!(
                    "segments/{segment} has no name to list: pool why {what} says what needs it"
                )))
            }
            Err(_) => {}
        }
        let beginning = |name: Option<Name>, separator| {
            Some(name.map_or_else(String::new, |name| format!("{name}{separator}")))
        };
        (images, libraries) = match referent::folder(what) {
            Some(Folder::Root) => (Some(String::new()), Some(String::new())),
            Some(Folder::Images(name)) => (beginning(name, ':'), None),
            Some(Folder::Libraries(name)) => (None, beginning(name, '@')),
            None if what.contains('/') => bail!(WrongUse(format!(
                "{what} has nothing to list: write image/NAME, lib/NAME, or a path such as \
                 /pool/libs or /pool/images/NAME"
            ))),
            None => (Some(what.to_owned()), Some(what.to_owned())),
        };
    }
    let images = images.map(|prefix| client.images(&prefix)).transpose()?;
    let libraries = libraries.map(|prefix| client.libraries(&prefix));
    Ok(Listing::of(images, libraries.transpose()?))
}

/// Whatever has this content, or a name that begins with these digits.
fn list_digest(client: &Client, digest: ObjectId) -> Result<Listing> {
    let digits = digest.to_string();
    let (mut images, mut libraries) = (client.images("")?, client.libraries("")?);
    images.retain(|image| {
        let objects = [Some(image.manifest), Some(image.file), image.data];
        objects.contains(&Some(digest)) || image.name.as_str().starts_with(&digits)
    });
    libraries
        .retain(|library| library.object == digest || library.name.as_str().starts_with(&digits));
    Ok(Listing::of(Some(images), Some(libraries)))
}

fn text(listing: &Listing) -> String {
    let mut parts = Vec::new();
    if let Some(images) = listing.images.as_deref().filter(|list| !list.is_empty()) {
        let rows: Vec<_> = images.iter().map(image_row).collect();
        parts.push(output::table(
            &[
                Text("IMAGE"),
                Number("SIZE"),
                Number("TAGGED"),
                Text("FILE"),
                Text("LIBRARIES"),
            ],
            &rows,
        ));
    }
    if let Some(libraries) = listing.libraries.as_deref().filter(|list| !list.is_empty()) {
        let rows: Vec<_> = libraries.iter().map(library_row).collect();
        parts.push(output::table(
            &[
                Text("LIBRARY"),
                Number("SIZE"),
                Number("AGE"),
                Number("USERS"),
                Text("OBJECT"),
                Text("STATE"),
            ],
            &rows,
        ));
    }
    parts.join("\n")
}

fn image_row(image: &Image) -> Vec<String> {
    let libraries: Vec<_> = image.libraries.iter().map(ToString::to_string).collect();
    vec![
        format!("image/{}", image.reference()),
        output::bytes(image.length),
        output::age(image.tagged_at),
        output::short(&image.file),
        if libraries.is_empty() {
            "-".into()
        } else {
            libraries.join(" ")
        },
    ]
}

fn library_row(library: &Library) -> Vec<String> {
    let state = match (library.pinned, library.unused_since) {
        (true, _) => "pinned".into(),
        (false, Some(since)) => format!("unused for {}", output::age(since)),
        (false, None) => "used".into(),
    };
    vec![
        format!("lib/{}", library.reference()),
        output::bytes(library.length),
        output::age(library.created_at),
        library.users.len().to_string(),
        output::short(&library.object),
        state,
    ]
}
