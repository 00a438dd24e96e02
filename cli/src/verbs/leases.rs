//! `pool leases`: who holds what.

mod users;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use pool_core::ObjectId;
use pool_core::extent::SegmentId;
use pool_store::holders::{self, Bytes};
use pool_store::{Snapshot, StoreView};
use serde::Serialize;

use crate::scratch::Scratch;
use crate::{Global, output};
use users::{Process, User};

/// Show who keeps what of a store from being collected
///
/// Processes that hold leases of it (a service that sends content, a mount for all who have files of it open, a scrub), what they
/// hold, and who has files open in mounts of it. Without root only processes of the same user can be looked at; what others
/// hold is shown without them. The age is that of the process.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  pool leases --store /var/lib/pool")]
pub(crate) struct Leases {
    /// The store's directory
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
}

/// Who holds what.
#[derive(Debug, Serialize)]
struct Report {
    /// Processes that have locks in the lease file.
    holders: Vec<Holder>,
    /// Processes that have files open in mounts of the store.
    users: Vec<User>,
    /// What somebody holds who cannot be seen.
    unseen: Held,
    /// Processes that could not be looked at.
    hidden_processes: u64,
}

#[derive(Debug, Serialize)]
struct Holder {
    #[serde(flatten)]
    process: Process,
    #[serde(flatten)]
    held: Held,
}

/// What is held.
#[derive(Debug, Default, Serialize)]
struct Held {
    objects: Vec<Object>,
    segments: Vec<SegmentId>,
}

/// An object, and the names that need it.
#[derive(Debug, Serialize)]
struct Object {
    digest: ObjectId,
    names: BTreeSet<String>,
}

/// What can be held of a store.
struct Things {
    objects: Vec<ObjectId>,
    segments: Vec<SegmentId>,
    names: BTreeMap<ObjectId, BTreeSet<String>>,
}

impl Leases {
    pub(crate) fn run(self, global: &Global) -> Result<ExitCode> {
        let scratch = Scratch::new()?;
        let view = StoreView::follow(&self.store, &scratch.index())?;
        let found = holders::holders(&self.store)?;
        let (users, hidden) = users::find(&self.store)?;
        let things = Things::of(&view.snapshot())?;
        let mine = std::process::id();
        let others = found.processes.iter().filter(|(pid, _)| **pid != mine);
        let report = Report {
            holders: others
                .map(|(pid, bytes)| Holder {
                    process: Process::of(*pid),
                    held: things.held(bytes),
                })
                .collect(),
            users,
            unseen: things.held(&found.unseen),
            hidden_processes: found.hidden_processes.max(hidden),
        };
        output::print(global.json, &report, text)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Things {
    fn of(store: &Snapshot<'_>) -> Result<Self> {
        let mut things = Self {
            objects: Vec::new(),
            segments: store.segments()?.into_iter().map(|(id, _)| id).collect(),
            names: BTreeMap::new(),
        };
        store.for_each_object(|id, _| {
            things.objects.push(id);
            Ok(())
        })?;
        let mut name = |id: ObjectId, name: String| {
            things.names.entry(id).or_default().insert(name);
        };
        for (library, record) in store.libraries()? {
            name(record.object, format!("lib/{library}"));
        }
        for (image, _) in store.tags()? {
            let manifest = store.image(&image)?.map(|(_, manifest)| manifest);
            let Some(manifest) = manifest else { continue };
            // What it has of libraries has their names.
            let description = &manifest.description;
            let of_libraries: BTreeSet<_> =
                description.libraries.iter().map(|l| l.object).collect();
            for id in manifest.objects() {
                if !of_libraries.contains(&id) {
                    name(id, format!("image/{image}"));
                }
            }
        }
        Ok(things)
    }

    fn held(&self, bytes: &[Bytes]) -> Held {
        let objects = holders::held(&self.objects, bytes);
        Held {
            objects: objects
                .into_iter()
                .map(|digest| Object {
                    digest,
                    names: self.names.get(&digest).cloned().unwrap_or_default(),
                })
                .collect(),
            segments: holders::held(&self.segments, bytes),
        }
    }
}

impl Held {
    /// Names, objects without one, segments.
    fn lines(&self) -> Vec<String> {
        let names: BTreeSet<_> = self
            .objects
            .iter()
            .flat_map(|object| &object.names)
            .collect();
        let nameless = self.objects.iter().filter(|object| object.names.is_empty());
        let mut lines: Vec<String> = names.into_iter().cloned().collect();
        lines.extend(nameless.map(|object| format!("object {}", object.digest)));
        if !self.segments.is_empty() {
            let segments: Vec<String> = self.segments.iter().map(ToString::to_string).collect();
            lines.push(format!("segments {}", segments.join(" ")));
        }
        lines
    }
}

fn text(report: &Report) -> String {
    let holders = report.holders.iter();
    let holders = holders.map(|holder| (format!("{} holds", holder.process), holder.held.lines()));
    let users = report.users.iter().map(|user| {
        let who = format!("{} has open in a mount", user.process);
        (who, user.open.iter().cloned().collect())
    });
    let who = "somebody who cannot be seen from here holds".to_owned();
    let unseen = std::iter::once((who, report.unseen.lines()));
    let mut lines = Vec::new();
    for (who, what) in holders.chain(users).chain(unseen) {
        if !what.is_empty() {
            lines.push(who);
            lines.extend(what.into_iter().map(|line| format!("  {line}")));
        }
    }
    if lines.is_empty() {
        lines.push("nothing is held".to_owned());
    }
    if report.hidden_processes > 0 {
        lines.push(format!(
            "{} processes of others could not be looked at: ask as root to see them",
            report.hidden_processes
        ));
    }
    lines.push(String::new());
    lines.join("\n")
}
