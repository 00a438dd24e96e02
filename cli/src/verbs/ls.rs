//! `pool ls`: what the pool has.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use pool_api::client::Client;
use pool_api::types::{Image, Library};
use pool_core::digest::ObjectId;
use pool_core::name::Referent;
use serde::Serialize;

use crate::{Global, output, referent, server};

/// List images and library versions
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  pool ls\n  pool ls libs\n  pool ls lib/zlib\n  pool ls image/app:v1"
)]
pub(crate) struct Ls {
    /// libs, images, or the beginning of a referent
    what: Option<String>,
}

#[derive(Serialize)]
struct Listing {
    #[serde(skip_serializing_if = "Option::is_none")]
    images: Option<Vec<Image>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    libraries: Option<Vec<Library>>,
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
    // A whole referent, whatever its form, is the beginning of itself.
    let what = match referent::parse(what) {
        Ok(Referent::Digest(digest)) => return list_digest(client, digest),
        Ok(referent) => referent.to_string(),
        Err(_) => what.to_owned(),
    };
    let images = |prefix: &str| client.images(prefix).map(Some);
    let libraries = |prefix: &str| client.libraries(prefix).map(Some);
    let (images, libraries) = match what.as_str() {
        "images" | "image" | "image/" => (images("")?, None),
        "libs" | "lib" | "lib/" => (None, libraries("")?),
        _ => match (what.strip_prefix("image/"), what.strip_prefix("lib/")) {
            (Some(prefix), _) => (images(prefix)?, None),
            (_, Some(prefix)) => (None, libraries(prefix)?),
            _ => (images(&what)?, libraries(&what)?),
        },
    };
    Ok(Listing { images, libraries })
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
    Ok(Listing {
        images: Some(images),
        libraries: Some(libraries),
    })
}

fn text(listing: &Listing) -> String {
    let mut parts = Vec::new();
    if let Some(images) = listing.images.as_deref().filter(|list| !list.is_empty()) {
        let rows: Vec<_> = images.iter().map(image_row).collect();
        parts.push(output::table(
            &["IMAGE", "SIZE", "TAGGED", "FILE", "LIBRARIES"],
            &rows,
        ));
    }
    if let Some(libraries) = listing.libraries.as_deref().filter(|list| !list.is_empty()) {
        let rows: Vec<_> = libraries.iter().map(library_row).collect();
        parts.push(output::table(
            &["LIBRARY", "SIZE", "AGE", "USERS", "OBJECT", "STATE"],
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
