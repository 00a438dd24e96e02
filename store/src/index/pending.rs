//! Changes that are taken for made on top of what the database has.
//!
//! Commits are made durable several at once ([`crate::group`]), and each is decided when those before it may still
//! be on their way. It has to find what they have changed, and nobody else may: until it is durable it is not there.
//! And who follows the process that writes has the last commits from the journal, before its database has them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use std::ops::{Bound, ControlFlow};

use pool_core::digest::{PageId, WindowId};
use pool_core::name::Named;

use super::batch::{each_made, family_of};
use super::options::{Followed, LIBRARIES, META, PAGES, TAGS, WINDOWS};
use super::{COMMITS, FRAME};
use crate::error::{Result, StoreError};
use crate::format::Location;
use crate::journal::frame::{self, Digest};

/// What one change puts under keys; `None` where a key goes.
type Entries = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// What becomes of what is under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Becomes<T> {
    Gone,
    Put(T),
}

impl<T> Becomes<T> {
    /// What there is then.
    pub(super) fn value(self) -> Option<T> {
        match self {
            Self::Gone => None,
            Self::Put(value) => Some(value),
        }
    }
}

/// Is shown a key and its value, and says whether it wants to see more.
pub(super) type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>> + 'a;

/// What one commit changes.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    families: HashMap<&'static str, Entries>,
    pages: Places<PageId>,
    windows: Places<WindowId>,
    /// What others have found may not be where it was.
    removes: bool,
    /// Bytes of keys and values, of a commit of the journal.
    bytes: usize,
}

/// Where pages come to be, or windows, and which of them go.
#[derive(Debug)]
struct Places<I> {
    put: HashMap<I, Location>,
    gone: HashSet<I>,
}

impl<I> Default for Places<I> {
    fn default() -> Self {
        HashMap::new().into()
    }
}

impl<I> From<HashMap<I, Location>> for Places<I> {
    fn from(put: HashMap<I, Location>) -> Self {
        let gone = HashSet::new();
        Self { put, gone }
    }
}

impl<I: Eq + Hash> Places<I> {
    /// What becomes of a place, if anything.
    fn get(&self, id: &I) -> Option<Becomes<Location>> {
        match self.put.get(id) {
            Some(at) => Some(Becomes::Put(*at)),
            None => self.gone.contains(id).then_some(Becomes::Gone),
        }
    }

    /// Makes a later change.
    fn change(&mut self, id: I, value: Option<&[u8]>) -> Result<()> {
        if let Some(value) = value {
            self.gone.remove(&id);
            self.put.insert(id, Location::decode(value)?);
        } else {
            self.put.remove(&id);
            self.gone.insert(id);
        }
        Ok(())
    }
}

/// What was asked of a state.
#[derive(Debug, Default)]
pub struct Reads {
    keys: Vec<(&'static str, Vec<u8>)>,
    prefixes: Vec<(&'static str, Vec<u8>)>,
}

impl Reads {
    pub(super) fn add_key(&mut self, family: &'static str, key: &[u8]) {
        self.keys.push((family, key.to_vec()));
    }

    /// All keys that begin so.
    pub(super) fn add_prefix(&mut self, family: &'static str, prefix: &[u8]) {
        self.prefixes.push((family, prefix.to_vec()));
    }

    /// Bytes in memory that this is, about.
    pub fn bytes_kept(&self) -> usize {
        let all = self.keys.iter().chain(&self.prefixes);
        all.map(|(_, key)| key.len() + size_of::<(&str, Vec<u8>)>())
            .sum()
    }
}

impl Pending {
    /// The changes of the commit `number` of the journal, whose frame comes to `digest`, and what the index notes of it, for who follows the
    /// index [without pages](super::Followed::WithoutPages). `None` when they are of a kind that there is not.
    pub(super) fn of_commit(number: u64, digest: &Digest, changes: &[u8]) -> Option<Self> {
        let mut families: HashMap<&'static str, Entries> = HashMap::new();
        let mut bytes = 0;
        let mut put = |family, key: &[u8], value: Option<&[u8]>| {
            let entries = families.entry(family).or_default();
            bytes += key.len() + value.map_or(0, <[u8]>::len);
            entries.insert(key.to_vec(), value.map(<[u8]>::to_vec));
        };
        let is_right = frame::each_change(changes, |change| {
            let family = family_of(change.family).ok_or(())?;
            if Followed::WithoutPages.has(family) {
                put(family, change.key, change.value);
            }
            Ok::<_, ()>(())
        });
        put(META, COMMITS, Some(&number.to_le_bytes()));
        put(META, FRAME, Some(digest));
        (is_right == Ok(true)).then(|| Self {
            families,
            bytes,
            ..Self::default()
        })
    }

    /// Bytes of what is kept of a commit of the journal.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// True when a commit of the journal changes some of what was read.
    pub(super) fn changes(&self, reads: &Reads) -> bool {
        let has = |(family, key): &(&str, Vec<u8>)| self.get(family, key).is_some();
        let has_any = |(family, prefix): &(&str, Vec<u8>)| {
            let entries = self.families.get(family);
            entries.is_some_and(|entries| starting_with(entries, prefix).next().is_some())
        };
        reads.keys.iter().any(has) || reads.prefixes.iter().any(has_any)
    }

    /// The changes of a batch. Those of pages and windows, which can be very many, are taken from the maps that a commit
    /// has of them.
    pub(crate) fn of(
        changes: &[u8],
        pages: HashMap<PageId, Location>,
        windows: HashMap<WindowId, Location>,
    ) -> Self {
        let mut pending = Self {
            pages: pages.into(),
            windows: windows.into(),
            ..Self::default()
        };
        pending.add(changes);
        pending
    }

    /// The changes of a batch that has neither pages nor windows.
    pub(crate) fn of_names(changes: &[u8]) -> Self {
        Self::of(changes, HashMap::new(), HashMap::new())
    }

    /// The changes of a batch that may have anything moved, or removed.
    pub(crate) fn of_removals(changes: &[u8]) -> Result<Self> {
        let mut pending = Self {
            removes: true,
            ..Self::of_names(changes)
        };
        let digest = |key: &[u8]| {
            let wrong =
                |_| StoreError::Corrupt("a digest whose place is changed has not 32 bytes".into());
            key.try_into().map_err(wrong)
        };
        let mut made = Ok(());
        each_made(changes, |family, key, value| {
            let mut change = || match family {
                PAGES => pending.pages.change(PageId(digest(key)?), value),
                WINDOWS => pending.windows.change(WindowId(digest(key)?), value),
                _ => Ok(()),
            };
            if made.is_ok() {
                made = change();
            }
        });
        made.map(|()| pending)
    }

    /// True when what others have found may not be where it was.
    pub(crate) fn removes(&self) -> bool {
        self.removes
    }

    /// Adds later changes of the same commit.
    pub(crate) fn add(&mut self, changes: &[u8]) {
        each_made(changes, |family, key, value| {
            if family != PAGES && family != WINDOWS {
                let entries = self.families.entry(family).or_default();
                entries.insert(key.to_vec(), value.map(<[u8]>::to_vec));
            }
        });
    }

    /// Slots that new pages are in, and those that new windows begin at.
    pub(crate) fn locations(&self) -> impl Iterator<Item = Location> + '_ {
        let (pages, windows) = (&self.pages.put, &self.windows.put);
        pages.values().chain(windows.values()).copied()
    }

    /// Names that are given, changed or removed.
    pub(crate) fn names(&self) -> Vec<Named> {
        let keys = |family: &str| {
            self.families
                .get(family)
                .into_iter()
                .flat_map(Entries::keys)
        };
        let text = |key: &Vec<u8>| String::from_utf8(key.clone()).ok();
        let images = keys(TAGS).filter_map(|key| Some(Named::Image(text(key)?.parse().ok()?)));
        let libraries =
            keys(LIBRARIES).filter_map(|key| Some(Named::Library(text(key)?.parse().ok()?)));
        images.chain(libraries).collect()
    }

    /// What becomes of a page's place, if anything.
    pub(super) fn page(&self, id: &PageId) -> Option<Becomes<Location>> {
        self.pages.get(id)
    }

    /// The same of a window.
    pub(super) fn window(&self, id: &WindowId) -> Option<Becomes<Location>> {
        self.windows.get(id)
    }

    /// What becomes of a key, if anything.
    pub(super) fn get(&self, family: &str, key: &[u8]) -> Option<Becomes<&[u8]>> {
        let value = self.families.get(family)?.get(key)?;
        Some(value.as_deref().map_or(Becomes::Gone, Becomes::Put))
    }

    /// Adds all keys that begin with `prefix` to `found`.
    fn collect<'a>(
        &'a self,
        family: &str,
        prefix: &[u8],
        found: &mut BTreeMap<&'a [u8], Option<&'a [u8]>>,
    ) {
        let Some(entries) = self.families.get(family) else {
            return;
        };
        for (key, value) in starting_with(entries, prefix) {
            found.insert(key, value.as_deref());
        }
    }
}

fn starting_with<'a, 'p>(
    entries: &'a Entries,
    prefix: &'p [u8],
) -> impl Iterator<Item = (&'a Vec<u8>, &'a Option<Vec<u8>>)> + use<'a, 'p> {
    let range = (Bound::Included(prefix), Bound::Unbounded);
    let all = entries.range::<[u8], _>(range);
    all.take_while(move |(key, _)| key.starts_with(prefix))
}

/// Goes through what `scan` finds, in order of keys, as it will be with `pending`, the last changes last.
pub(super) fn merge(
    pending: &[std::sync::Arc<Pending>],
    family: &str,
    prefix: &[u8],
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>>,
    scan: impl FnOnce(&mut Visit<'_>) -> Result<()>,
) -> Result<()> {
    let mut changed = BTreeMap::new();
    for pending in pending {
        pending.collect(family, prefix, &mut changed);
    }
    let mut is_over = false;
    scan(&mut |key, value| {
        // What comes before it, and what takes its place.
        while let Some(first) = changed.first_entry()
            && *first.key() <= key
        {
            let (new, put) = first.remove_entry();
            if let Some(put) = put
                && visit(new, put)?.is_break()
            {
                is_over = true;
                return Ok(ControlFlow::Break(()));
            }
            if new == key {
                return Ok(ControlFlow::Continue(()));
            }
        }
        let next = visit(key, value)?;
        is_over = next.is_break();
        Ok(next)
    })?;
    if is_over {
        return Ok(());
    }
    for (key, value) in changed {
        if let Some(value) = value
            && visit(key, value)?.is_break()
        {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
impl Pending {
    /// What is put under keys of a family, or goes.
    pub(super) fn of_pairs(family: &'static str, entries: &[(&str, Option<&str>)]) -> Self {
        let bytes = |text: &str| text.as_bytes().to_vec();
        let entries = entries
            .iter()
            .map(|(key, value)| (bytes(key), value.map(bytes)));
        let entries: Entries = entries.collect();
        let length = |(key, value): (&Vec<u8>, &Option<Vec<u8>>)| {
            key.len() + value.as_ref().map_or(0, Vec::len)
        };
        Self {
            bytes: entries.iter().map(length).sum(),
            families: HashMap::from([(family, entries)]),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn pending(entries: &[(&str, Option<&str>)]) -> Arc<Pending> {
        Arc::new(Pending::of_pairs("f", entries))
    }

    fn found(stored: &[(&str, &str)], pending: &[Arc<Pending>], most: usize) -> Vec<String> {
        let mut found = Vec::new();
        let visit = |key: &[u8], value: &[u8]| {
            let text = [key, b"=", value].concat();
            found.push(String::from_utf8(text).unwrap());
            Ok(if found.len() == most {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        };
        merge(pending, "f", b"a", visit, |visit| {
            for (key, value) in stored {
                if visit(key.as_bytes(), value.as_bytes())?.is_break() {
                    break;
                }
            }
            Ok(())
        })
        .unwrap();
        found
    }

    #[test]
    fn what_is_pending_is_found_in_its_place() {
        let stored = [("a2", "old"), ("a4", "old"), ("a6", "old")];
        let first = pending(&[("a1", Some("1")), ("a2", Some("1")), ("a6", None)]);
        let second = pending(&[
            ("a2", None),
            ("a3", Some("2")),
            ("a4", Some("2")),
            ("a7", Some("2")),
            ("b", Some("another prefix")),
        ]);
        let all = [first, second];
        assert_eq!(found(&stored, &[], 9), ["a2=old", "a4=old", "a6=old"]);
        assert_eq!(found(&stored, &all, 9), ["a1=1", "a3=2", "a4=2", "a7=2"]);
        assert_eq!(found(&[], &all, 9), ["a1=1", "a3=2", "a4=2", "a7=2"]);
        for most in 1..=4 {
            assert_eq!(found(&stored, &all, most).len(), most);
        }
        assert_eq!(all[0].get("f", b"a6"), Some(Becomes::Gone));
        assert_eq!(all[0].get("f", b"a1"), Some(Becomes::Put(&b"1"[..])));
        assert_eq!(all[0].get("f", b"a9"), None);
        assert_eq!(all[0].get("g", b"a1"), None);
    }
}
