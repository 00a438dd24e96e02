//! Quotas: how much there may be under names that begin alike.
//!
//! What counts is the length of the files, as `ls -l` shows them under `/pool`, whatever of it is shared: so a team is
//! charged for what it pushes, and not for more because somebody else's image has gone. A library that an image brings along
//! counts under the library's name. Nothing is charged twice for being pushed again.
//!
//! A change is weighed where it is decided, under the writer's lock, by sums that are kept in memory. They are counted from the
//! index when quotas are set, and again at the next change that matters after a group has come to nothing or a collection has removed
//! library versions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pool_core::digest::ObjectId;
use pool_core::name::Named;
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
    /// Bytes of the files that there are. More than the quota, if there were more when it was set.
    pub used_bytes: u64,
}

/// The quotas of a store.
#[derive(Debug, Default)]
pub(crate) struct Quotas {
    quotas: Vec<Quota>,
    /// Absent until it is counted (again).
    ledger: Mutex<Option<Ledger>>,
}

/// What is under names that quotas are about, changes that are on their way included.
#[derive(Debug, Default)]
struct Ledger {
    /// Groups that had come to nothing when it was counted.
    failures: u64,
    bytes: HashMap<Named, u64>,
    /// By number of the quota.
    used: Vec<u64>,
}

/// What a change leaves under each name that it changes, if a quota is about it.
#[derive(Debug, Default)]
#[must_use = "to be noted once the change has joined its group"]
pub(crate) struct Weighed(Vec<(Named, u64)>);

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
        let mut names = change.names();
        names.retain(|name| self.concern(name));
        if names.is_empty() {
            return Ok(Weighed::default());
        }
        let after = index.ahead([seen.pending(), vec![Arc::clone(change)]].concat());
        let mut left = Vec::with_capacity(names.len());
        for name in names {
            let bytes = bytes_under(&after, &name)?;
            left.push((name, bytes));
        }
        self.allow(index, seen, &left)?;
        Ok(Weighed(left))
    }

    /// Refuses if quotas do not leave room for what is to be under those names.
    fn allow(&self, index: &Index, seen: &Sight, left: &[(Named, u64)]) -> Result<()> {
        let ledger = self.counted(index, seen)?;
        let ledger = ledger.as_ref().expect("it was counted a moment ago");
        for (quota, used) in self.quotas.iter().zip(&ledger.used) {
            let about = left.iter().filter(|(name, _)| quota.is_about(name));
            let (mut less, mut more) = (0u64, 0u64);
            for (name, bytes) in about {
                less = less.saturating_add(ledger.under(name));
                more = more.saturating_add(*bytes);
            }
            let would_be = used.saturating_sub(less).saturating_add(more);
            if more > less && would_be > quota.bytes {
                return Err(StoreError::QuotaExceeded {
                    prefix: quota.prefix.clone(),
                    quota: quota.bytes,
                    used: *used,
                    would_be,
                });
            }
        }
        Ok(())
    }

    /// Notes a change that has joined its group, under the same lock.
    pub(crate) fn note(&self, weighed: Weighed) {
        if let Some(ledger) = &mut *self.ledger() {
            for (name, bytes) in weighed.0 {
                ledger.put(&self.quotas, name, bytes);
            }
        }
    }

    /// Has everything counted again: names have gone that were in no group.
    pub(crate) fn forget(&self) {
        *self.ledger() = None;
    }

    fn ledger(&self) -> MutexGuard<'_, Option<Ledger>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ledger, counted if need be from what was seen under the writer's lock, which the caller has.
    fn counted(&self, index: &Index, seen: &Sight) -> Result<MutexGuard<'_, Option<Ledger>>> {
        let mut ledger = self.ledger();
        let is_right = |ledger: &Ledger| ledger.failures == seen.failures();
        if !ledger.as_ref().is_some_and(is_right) {
            // What cannot be read is not taken for nothing, now or later.
            *ledger = None;
            let counted = self.count(&index.ahead(seen.pending()), seen.failures())?;
            *ledger = Some(counted);
        }
        Ok(ledger)
    }

    fn count(&self, index: &Reader<'_>, failures: u64) -> Result<Ledger> {
        let mut ledger = Ledger {
            failures,
            bytes: HashMap::new(),
            used: vec![0; self.quotas.len()],
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
    fn is_about(&self, name: &Named) -> bool {
        let name = match name {
            Named::Image(image) => &image.name,
            Named::Library(library) => &library.name,
        };
        name.as_str().starts_with(&self.prefix)
    }
}

impl Ledger {
    fn under(&self, name: &Named) -> u64 {
        self.bytes.get(name).copied().unwrap_or(0)
    }

    fn put(&mut self, quotas: &[Quota], name: Named, bytes: u64) {
        let before = self.under(&name);
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

/// Bytes of the file under a name; none if there is no such name.
fn bytes_under(index: &Reader<'_>, name: &Named) -> Result<u64> {
    Ok(match name {
        Named::Image(image) => {
            let found = index.image(image)?;
            found.map_or(0, |(_, manifest)| manifest.description.image.length)
        }
        Named::Library(library) => match index.library(library)? {
            Some(record) => {
                let object = index.object(record.object)?;
                object.map_or(0, |object| object.map.length)
            }
            None => 0,
        },
    })
}

impl Store {
    /// Sets what may be under names from now on, and counts what there is, which may be more. None are set when a store is opened.
    pub fn set_quotas(&mut self, quotas: Vec<Quota>) -> Result<()> {
        self.quotas = Quotas {
            quotas,
            ledger: Mutex::default(),
        };
        self.quota_use().map(drop)
    }

    /// Each quota and how much of it is used, in the order in which they were set; what is about to be durable counts.
    pub fn quota_use(&self) -> Result<Vec<QuotaUse>> {
        if self.quotas.quotas.is_empty() {
            return Ok(Vec::new());
        }
        let _writer = self.joining();
        let seen = self.groups.sight();
        let ledger = self.quotas.counted(&self.view.index, &seen)?;
        let used = ledger.iter().flat_map(|ledger| &ledger.used);
        let each = self.quotas.quotas.iter().zip(used);
        let each = each.map(|(quota, used)| QuotaUse {
            prefix: quota.prefix.clone(),
            bytes: quota.bytes,
            used_bytes: *used,
        });
        Ok(each.collect())
    }

    /// Refuses what quotas leave no room for now, so that nothing is sent or read in vain. `length` says how long announced objects
    /// are; what the target refers to beside them is weighed when it is committed.
    pub(crate) fn check_quotas(
        &self,
        target: &Target,
        length: impl Fn(ObjectId) -> Option<u64>,
    ) -> Result<()> {
        let name = target.name();
        if !self.quotas.concern(&name) {
            return Ok(());
        }
        let bytes = match target {
            Target::Image { description, .. } => Some(description.image.length),
            Target::Library { object, .. } => length(*object),
        };
        let Some(bytes) = bytes else {
            return Ok(());
        };
        let _writer = self.joining();
        let seen = self.groups.sight();
        self.quotas.allow(&self.view.index, &seen, &[(name, bytes)])
    }
}
