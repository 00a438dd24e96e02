//! Quotas: how much there may be under names that begin alike.
//!
//! What counts is the length of the files in whole pages, as under `/pool`, whatever of it is shared: so a team is
//! charged for what it pushes, and not for more because somebody else's image has gone. Nothing keeps an image's own pages, data and
//! record from being more than its file, though they are made from it nearly always: then they count in its place. A library that
//! an image brings along counts under the library's name. Nothing is charged twice for being pushed again.
//!
//! An image's description is a file, too, and may have megabytes. As every file has a page at least, there are no more
//! names than that leaves room for, and what the index has for each is less. Reservations of addresses, with the record of where
//! everything is in a version, are charged to nobody: they stay when what they are for has gone, so a quota would fill with them for good.
//!
//! A change is weighed where it is decided, under the writer's lock, by sums that are kept in memory. They are counted from the
//! index when quotas are set. Later only names are read again whose changes may not have come to what was noted: those that were on
//! their way when a group came to nothing.
//!
//! What does not grow needs no sums. So whatever of the index cannot be read, what is there can be removed and replaced.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pool_core::description::Description;
use pool_core::digest::ObjectId;
use pool_core::name::Named;
use pool_core::page::{PAGE_SIZE, PageCount};
use serde::{Deserialize, Serialize};

use crate::Store;
use crate::error::{Result, StoreError};
use crate::group::Sight;
use crate::index::{Index, Pending, Reader};
use crate::upload::Target;

/// Most bytes of files under names of images and libraries that begin alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// What the names begin with, tag or version aside; empty for all names.
    pub prefix: String,
    /// Bytes of the files together.
    pub bytes: u64,
}

/// A quota, and how much of it is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaUse {
    /// See [`Quota::prefix`].
    pub prefix: String,
    /// See [`Quota::bytes`].
    pub bytes: u64,
    /// Bytes of the files that there are. More than the quota, if there were more when it was set. `None` while it cannot be counted.
    pub used_bytes: Option<u64>,
}

/// The quotas of a store.
#[derive(Debug, Default)]
pub(crate) struct Quotas {
    quotas: Vec<Quota>,
    /// Absent until it can be counted.
    ledger: Mutex<Option<Ledger>>,
}

/// What is under names that quotas are about, changes that are on their way included.
#[derive(Debug)]
struct Ledger {
    bytes: HashMap<Named, u64>,
    /// By number of the quota.
    used: Vec<u64>,
    /// Names whose changes may not come, or have come, to what was noted.
    unsettled: HashSet<Named>,
    /// Groups that had come to nothing when it was right; none before it is.
    right_at: Option<u64>,
}

/// A name that a change is about, and the bytes that are charged for it before and after.
#[derive(Debug)]
struct Change {
    name: Named,
    before: u64,
    after: u64,
}

/// What a change comes to under names that quotas are about.
#[derive(Debug, Default)]
#[must_use = "to be noted once the change has joined its group"]
pub(crate) struct Weighed(Vec<Change>);

impl Quotas {
    /// True when a quota is about the name.
    fn concern(&self, name: &Named) -> bool {
        self.quotas.iter().any(|quota| quota.is_about(name))
    }

    /// Refuses what takes a name's files above a quota, and more so than they are. To be called under the writer's lock,
    /// with what was seen under it.
    pub(crate) fn weigh(
        &self,
        index: &Index,
        seen: &Sight,
        change: &Arc<Pending>,
    ) -> Result<Weighed> {
        if self.quotas.is_empty() {
            return Ok(Weighed::default());
        }
        let now = index.ahead(seen.pending());
        let then = index.ahead([seen.pending(), vec![Arc::clone(change)]].concat());
        let mut changes = Vec::new();
        for name in change.names() {
            if !self.concern(&name) {
                continue;
            }
            let (before, after) = match (bytes_under(&now, &name), bytes_under(&then, &name)) {
                (Ok(before), after) => (before, after?),
                // What takes its place has to find room.
                (Err(_), Ok(after)) => (0, after),
                // It has something to do with what cannot be read, and leaves it there.
                (Err(_), Err(_)) => continue,
            };
            changes.push(Change {
                name,
                before,
                after,
            });
        }
        self.allow(index, seen, &changes)?;
        Ok(Weighed(changes))
    }

    /// Refuses if quotas do not leave room for what names grow by.
    fn allow(&self, index: &Index, seen: &Sight, changes: &[Change]) -> Result<()> {
        let becomes = |quota: &Quota| {
            let about = changes.iter().filter(|change| quota.is_about(&change.name));
            about.fold((0u64, 0u64), |(before, after), change| {
                let before = before.saturating_add(change.before);
                (before, after.saturating_add(change.after))
            })
        };
        let grows = |(before, after)| before < after;
        if !self.quotas.iter().map(becomes).any(grows) {
            return Ok(());
        }
        let refused = self.with_ledger(index, seen, |ledger| {
            let mut each = self.quotas.iter().zip(&ledger.used);
            each.find_map(|(quota, used)| {
                let (before, after) = becomes(quota);
                let would_be = used.saturating_sub(before).saturating_add(after);
                let is_allowed = !grows((before, after)) || would_be <= quota.bytes;
                (!is_allowed).then(|| StoreError::QuotaExceeded {
                    prefix: quota.prefix.clone(),
                    quota: quota.bytes,
                    used: *used,
                    would_be,
                })
            })
        })?;
        refused.map_or(Ok(()), Err)
    }

    /// Notes a change that has joined its group, under the same lock.
    pub(crate) fn note(&self, weighed: Weighed) {
        if let Some(ledger) = &mut *self.ledger() {
            for change in weighed.0 {
                ledger.unsettled.insert(change.name.clone());
                ledger.put(&self.quotas, change.name, change.after);
            }
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Option<Ledger>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows the ledger, which is right by what was seen under the writer's lock; the caller has that.
    fn with_ledger<T>(
        &self,
        index: &Index,
        seen: &Sight,
        look: impl FnOnce(&Ledger) -> T,
    ) -> Result<T> {
        let now = index.ahead(seen.pending());
        let mut ledger = self.ledger();
        let ledger = match &mut *ledger {
            Some(ledger) => ledger,
            // What cannot be read is not taken for nothing, now or later.
            none => none.insert(self.count(&now)?),
        };
        if ledger.right_at != Some(seen.failures()) {
            let read = |name: &Named| Ok((name.clone(), bytes_under(&now, name)?));
            let read: Result<Vec<_>> = ledger.unsettled.iter().map(read).collect();
            for (name, bytes) in read? {
                ledger.put(&self.quotas, name, bytes);
            }
            ledger.right_at = Some(seen.failures());
        }
        // What is no longer on its way is durable.
        let on_their_way = seen.pending();
        let names = on_their_way.iter().flat_map(|pending| pending.names());
        ledger.unsettled = names.filter(|name| self.concern(name)).collect();
        Ok(look(ledger))
    }

    /// How much is used, if the ledger is right as it is; so many groups have come to nothing.
    fn known(&self, failures: u64) -> Option<Vec<QuotaUse>> {
        let ledger = self.ledger();
        let right = ledger.as_ref();
        let right = right.filter(|ledger| ledger.right_at == Some(failures));
        right.map(|ledger| self.used(ledger))
    }

    fn used(&self, ledger: &Ledger) -> Vec<QuotaUse> {
        let each = self.quotas.iter().zip(&ledger.used);
        each.map(|(quota, used)| quota.used_by(Some(*used)))
            .collect()
    }

    /// Reads everything; what was on its way then is yet to be looked at.
    fn count(&self, index: &Reader<'_>) -> Result<Ledger> {
        let mut ledger = Ledger {
            bytes: HashMap::new(),
            used: vec![0; self.quotas.len()],
            unsettled: HashSet::new(),
            right_at: None,
        };
        let images = index.tags()?.into_iter();
        let images = images.map(|(image, _)| Named::Image(image));
        let libraries = index.libraries()?.into_iter();
        let libraries = libraries.map(|(library, _)| Named::Library(library));
        for name in images.chain(libraries) {
            if self.concern(&name) {
                let bytes = bytes_under(index, &name)?;
                ledger.put(&self.quotas, name, bytes);
            }
        }
        Ok(ledger)
    }
}

impl Quota {
    fn used_by(&self, used_bytes: Option<u64>) -> QuotaUse {
        QuotaUse {
            prefix: self.prefix.clone(),
            bytes: self.bytes,
            used_bytes,
        }
    }

    fn is_about(&self, name: &Named) -> bool {
        let name = match name {
            Named::Image(image) => &image.name,
            Named::Library(library) => &library.name,
        };
        name.as_str().starts_with(&self.prefix)
    }
}

impl Ledger {
    fn put(&mut self, quotas: &[Quota], name: Named, bytes: u64) {
        let before = self.bytes.get(&name).copied().unwrap_or(0);
        for (quota, used) in quotas.iter().zip(&mut self.used) {
            if quota.is_about(&name) {
                *used = used.saturating_sub(before).saturating_add(bytes);
            }
        }
        if bytes == 0 {
            self.bytes.remove(&name);
        } else {
            self.bytes.insert(name, bytes);
        }
    }
}

/// Bytes that are charged for a name; none if there is no such name.
fn bytes_under(index: &Reader<'_>, name: &Named) -> Result<u64> {
    let length = |id| Ok(index.object_length(id)?.unwrap_or(0));
    match name {
        Named::Image(image) => match index.image(image)? {
            Some((_, manifest)) => bytes_of_image(&manifest.description, manifest.data, length),
            None => Ok(0),
        },
        Named::Library(library) => match index.library(library)? {
            Some(record) => Ok(charged(length(record.object)?)),
            None => Ok(0),
        },
    }
}

/// Bytes that are charged for a file: in whole pages, and for one at least.
fn charged(length: u64) -> u64 {
    let pages = PageCount::covering(length).0.max(1);
    pages.saturating_mul(PAGE_SIZE)
}

/// Bytes that are charged for an image: of its description, and of its file or of its own objects beside that if these have more.
fn bytes_of_image(
    description: &Description,
    data: Option<ObjectId>,
    length: impl Fn(ObjectId) -> Result<u64>,
) -> Result<u64> {
    let mut own: BTreeSet<_> = description.objects().into_keys().chain(data).collect();
    own.remove(&description.image.digest);
    for used in &description.libraries {
        own.remove(&used.object);
    }
    let mut bytes = 0u64;
    for id in own {
        bytes = bytes.saturating_add(charged(length(id)?));
    }
    let bytes = bytes.max(charged(description.image.length));
    let described = description.to_json().len() as u64;
    Ok(bytes.saturating_add(charged(described)))
}

impl Store {
    /// Sets what may be under names from now on, and counts what there is, which may be more. None are set when a store is
    /// opened. If something cannot be read that would count, nothing may grow that quotas are about until it can be.
    pub fn set_quotas(&mut self, quotas: Vec<Quota>) {
        self.quotas = Quotas {
            quotas,
            ledger: Mutex::default(),
        };
        if let Err(error) = self.count_quotas() {
            tracing::error!(%error, "what quotas are about cannot be counted: pushes of more are refused until it can be");
        }
    }

    /// Each quota and how much of it is used, as far as that can be counted, in the order in which they were set; what is about to be
    /// durable counts.
    pub fn quota_use(&self) -> Vec<QuotaUse> {
        self.count_quotas().unwrap_or_else(|error| {
            tracing::debug!(%error, "counting what quotas are about");
            let each = self.quotas.quotas.iter();
            each.map(|quota| quota.used_by(None)).collect()
        })
    }

    fn count_quotas(&self) -> Result<Vec<QuotaUse>> {
        if self.quotas.quotas.is_empty() {
            return Ok(Vec::new());
        }
        // Nearly always it is known, and who measures waits for no commit.
        if let Some(known) = self.quotas.known(self.groups.failed()) {
            return Ok(known);
        }
        let _writer = self.joining();
        let seen = self.groups.sight();
        let quotas = &self.quotas;
        quotas.with_ledger(&self.view.index, &seen, |ledger| quotas.used(ledger))
    }

    /// Refuses what quotas leave no room for now, so that nothing is sent or read in vain: a file of `length` bytes under a
    /// name. What an image brings along, and its description, is weighed when it is committed.
    pub fn check_quotas(&self, name: &Named, length: u64) -> Result<()> {
        if !self.quotas.concern(name) {
            return Ok(());
        }
        loop {
            let writer = self.joining();
            let seen = self.groups.sight();
            let now = self.view.index.ahead(seen.pending());
            // What a version has it keeps; anything else is refused for that.
            if let Named::Library(library) = name
                && now.library(library)?.is_some()
            {
                return Ok(());
            }
            let change = Change {
                name: name.clone(),
                before: bytes_under(&now, name).unwrap_or(0),
                after: charged(length),
            };
            let allowed = self.quotas.allow(&self.view.index, &seen, &[change]);
            drop(writer);
            // What it was refused for may come to nothing yet.
            if allowed.is_ok() || self.groups.stands(&self.view.index, &seen) {
                return allowed;
            }
        }
    }

    /// The same for an upload. `length` says how long announced objects are.
    pub(crate) fn check_quotas_of(
        &self,
        target: &Target,
        length: impl Fn(ObjectId) -> Option<u64>,
    ) -> Result<()> {
        let name = target.name();
        if !self.quotas.concern(&name) {
            return Ok(());
        }
        let bytes = match target {
            Target::Image {
                description, data, ..
            } => bytes_of_image(description, *data, |id| Ok(length(id).unwrap_or(0)))?,
            Target::Library { object, .. } => length(*object).unwrap_or(0),
        };
        self.check_quotas(&name, bytes)
    }
}
