//! Objects whose pages are mostly those of others, as an image's file is: how an announcement says so, and what it means.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use pool_core::digest::{ObjectId, PageId};
use pool_core::page::PageCount;
use pool_store::upload::{Target, UploadManifest, UploadObject};
use pool_store::{StoreError, StoreView};

use crate::problem::{Problem, Result};
use crate::types::{AnnouncedObject, CopiedPages, UploadRequest};
use crate::wire::{LISTED_PAGE_SIZE, PageList};

/// Pages from which on it is shorter to name them as copies: that takes some 130 bytes.
const WORTH_COPYING: usize = 4;

/// Announces an object as it is.
pub(crate) fn listed(object: &UploadObject) -> AnnouncedObject {
    AnnouncedObject {
        id: object.id,
        length: object.length,
        placement: object.placement,
        pages: PageList(object.pages.clone()),
        copies: Vec::new(),
    }
}

/// Announces an object by the pages of `others` that it has.
pub(crate) fn copied(object: &UploadObject, others: &[&UploadObject]) -> AnnouncedObject {
    let mut found: HashMap<PageId, (&UploadObject, usize)> = HashMap::new();
    for other in others {
        for (at, id) in other.pages.iter().enumerate() {
            if let Some(id) = id {
                found.entry(*id).or_insert((other, at));
            }
        }
    }
    let mut pages = Vec::new();
    let mut copies = Vec::new();
    let mut at = 0;
    while let Some(page) = object.pages.get(at) {
        let rest = object.pages[at..].iter();
        let source = page.as_ref().and_then(|id| found.get(id));
        let run = source.map(|(other, first)| {
            let same = rest.zip(&other.pages[*first..]).take_while(|(a, b)| a == b);
            (other.id, *first, same.count())
        });
        match run {
            Some((other, first, count)) if count >= WORTH_COPYING => {
                copies.push(CopiedPages {
                    at: at as u64,
                    object: other,
                    first: first as u64,
                    count: count as u64,
                });
                at += count;
            }
            _ => {
                pages.push(*page);
                at += 1;
            }
        }
    }
    AnnouncedObject {
        pages: PageList(pages),
        copies,
        ..listed(object)
    }
}

/// Bytes that a request's copies would take if they were listed; they may be `limit`, as for a body.
pub(crate) fn room_for(request: &UploadRequest, limit: u64) -> Result<usize> {
    let copies = request.objects.iter().flat_map(|object| &object.copies);
    let pages = copies.fold(0u64, |sum, copy| sum.saturating_add(copy.count));
    let bytes = pages.saturating_mul(LISTED_PAGE_SIZE);
    if bytes > limit {
        let most = limit / LISTED_PAGE_SIZE;
        return Err(wrong(format!(
            "{pages} pages are copied, the limit is {most}: push the file in one piece"
        )));
    }
    Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
}

/// Refuses objects whose pages are not those that are listed and copied, whatever the pool has.
pub(crate) fn check_all(announced: &[AnnouncedObject]) -> Result<()> {
    announced.iter().try_for_each(check)
}

/// What is announced, page by page, of objects that [`check_all`] let pass. The copies take as much memory as
/// [`room_for`] says.
pub(crate) fn manifest(
    store: &StoreView,
    target: Target,
    objects: &[AnnouncedObject],
) -> Result<UploadManifest> {
    refuse_unknown(store, &target, objects)?;
    let sources = Sources::of(store, objects)?;
    let expanded = |object: &AnnouncedObject| {
        Ok(UploadObject {
            id: object.id,
            length: object.length,
            placement: object.placement,
            pages: expanded(object, |copy| sources.pages(copy))?,
        })
    };
    let objects = objects.iter().map(expanded).collect::<Result<_>>()?;
    Ok(UploadManifest { target, objects })
}

/// The pages of the objects that copies are of.
struct Sources<'a> {
    announced: BTreeSet<ObjectId>,
    /// Of those, the ones that are listed page by page.
    listed: HashMap<ObjectId, &'a [Option<PageId>]>,
    /// Runs of pages of objects that the pool has, by the number of the first.
    stored: HashMap<ObjectId, BTreeMap<u64, Vec<Option<PageId>>>>,
}

impl<'a> Sources<'a> {
    /// Looks each object up once and reads each of its pages once, however many copies are of it.
    fn of(store: &StoreView, objects: &'a [AnnouncedObject]) -> Result<Self> {
        let announced: BTreeSet<_> = objects.iter().map(|object| object.id).collect();
        let is_listed = |object: &&AnnouncedObject| object.copies.is_empty();
        let listed = objects.iter().filter(is_listed);
        let listed = listed.map(|object| (object.id, &object.pages.0[..]));

        let mut runs: BTreeMap<ObjectId, Vec<Range<u64>>> = BTreeMap::new();
        for copy in objects.iter().flat_map(|object| &object.copies) {
            if !announced.contains(&copy.object) {
                let run = copy.first..copy.first.saturating_add(copy.count);
                runs.entry(copy.object).or_default().push(run);
            }
        }
        let mut stored = HashMap::new();
        let mut unreadable = Vec::new();
        for (object, runs) in runs {
            let runs = joined(runs);
            match store.object_page_ids(object, &runs) {
                Ok(ids) => {
                    let firsts = runs.iter().map(|run| run.start);
                    stored.insert(object, firsts.zip(ids).collect());
                }
                // Its pages may be in other places, too, where they are found by their digests.
                Err(error @ (StoreError::Io { .. } | StoreError::NoSegment(_))) => {
                    tracing::error!(cause = %error, %object, "an object is not read, and has to be announced");
                    unreadable.push(object);
                }
                Err(error) => return Err(error.into()),
            }
        }
        if !unreadable.is_empty() {
            return Err(StoreError::UnknownObjects(unreadable).into());
        }
        Ok(Self {
            listed: listed.collect(),
            announced,
            stored,
        })
    }

    fn pages(&self, copy: &CopiedPages) -> Result<&[Option<PageId>]> {
        let CopiedPages {
            object: id,
            first,
            count,
            ..
        } = copy;
        let (start, pages) = match self.listed.get(id) {
            Some(pages) => (0, *pages),
            None if self.announced.contains(id) => {
                return Err(wrong(format!(
                    "object {id} has copies itself: pages can be those of an object without any"
                )));
            }
            None => {
                let runs = self.stored.get(id);
                let run = runs.and_then(|runs| runs.range(..=first).next_back());
                run.map_or((0, &[][..]), |(start, pages)| (*start, pages))
            }
        };
        let numbers = usize::try_from(first - start)
            .ok()
            .zip(usize::try_from(*count).ok());
        let pages = numbers.and_then(|(first, count)| pages.get(first..)?.get(..count));
        pages.ok_or_else(|| wrong(format!("object {id} has no {count} pages from {first} on")))
    }
}

/// Runs in ascending order, of which none touches the next.
fn joined(mut runs: Vec<Range<u64>>) -> Vec<Range<u64>> {
    runs.sort_unstable_by_key(|run| run.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for run in runs {
        match joined.last_mut() {
            Some(last) if run.start <= last.end => last.end = last.end.max(run.end),
            _ => joined.push(run),
        }
    }
    joined
}

/// The pages of an object that was checked, with those of its copies by `pages_of`.
fn expanded<'a>(
    object: &AnnouncedObject,
    pages_of: impl Fn(&CopiedPages) -> Result<&'a [Option<PageId>]>,
) -> Result<Vec<Option<PageId>>> {
    let mut pages = Vec::with_capacity(PageCount::covering(object.length).0 as usize);
    let mut listed = object.pages.0.iter().copied();
    for copy in &object.copies {
        let before = copy.at.saturating_sub(pages.len() as u64) as usize;
        pages.extend(listed.by_ref().take(before));
        pages.extend_from_slice(pages_of(copy)?);
    }
    pages.extend(listed);
    Ok(pages)
}

/// Refuses references to objects that nobody has, all at once.
fn refuse_unknown(store: &StoreView, target: &Target, objects: &[AnnouncedObject]) -> Result<()> {
    let copies = objects.iter().flat_map(|object| &object.copies);
    let mut referred: BTreeSet<ObjectId> = target.required_objects().into_keys().collect();
    referred.extend(copies.map(|copy| copy.object));
    for object in objects {
        referred.remove(&object.id);
    }
    let unknown = store.unknown_objects(referred)?;
    if unknown.is_empty() {
        Ok(())
    } else {
        Err(StoreError::UnknownObjects(unknown).into())
    }
}

/// Checks that what is listed and what is copied are the object's pages, before anything is made of it.
fn check(object: &AnnouncedObject) -> Result<()> {
    let id = object.id;
    let expected = PageCount::covering(object.length).0;
    let listed = object.pages.0.len() as u64;
    let mut copied = 0u64;
    let mut end = 0u64;
    for copy in &object.copies {
        // As many pages lie before it as are listed or copied there.
        if copy.count == 0 || copy.at < end || copy.at - copied > listed {
            return Err(wrong(format!(
                "the copies of object {id} are not one behind the other between its pages, each of one page or more: \
                 look at the one at {}",
                copy.at
            )));
        }
        copied = copied.saturating_add(copy.count);
        end = copy.at.saturating_add(copy.count);
    }
    if listed.saturating_add(copied) != expected {
        return Err(wrong(format!(
            "object {id} of {} bytes has {expected} pages, {listed} are listed and {copied} copied",
            object.length
        )));
    }
    Ok(())
}

fn wrong(why: String) -> Problem {
    StoreError::BadUpload(why).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pool_store::placement::Placement;
    use proptest::prelude::*;

    fn object(pages: Vec<Option<PageId>>) -> UploadObject {
        let length = pages.len() as u64 * 4096;
        UploadObject {
            id: ObjectId::of(format!("{pages:?}").as_bytes()),
            length,
            placement: Placement::Sparse,
            pages,
        }
    }

    /// Few different pages, so that runs begin and end everywhere.
    fn pages() -> impl Strategy<Value = Vec<Option<PageId>>> {
        let page = (0u8..4).prop_map(|n| (n > 0).then(|| PageId::of(&[n])));
        proptest::collection::vec(page, 0..40)
    }

    fn of_others<'a>(others: &'a [UploadObject], copy: &CopiedPages) -> &'a [Option<PageId>] {
        let other = others.iter().find(|other| other.id == copy.object);
        &other.unwrap().pages[copy.first as usize..][..copy.count as usize]
    }

    proptest! {
        #[test]
        fn what_is_copied_is_the_same_again(pages in pages(), others in proptest::collection::vec(pages(), 0..4)) {
            let (whole, others) = (object(pages), others.into_iter().map(object).collect::<Vec<_>>());
            let announced = copied(&whole, &others.iter().collect::<Vec<_>>());
            prop_assert!(check(&announced).is_ok());
            let again = expanded(&announced, |copy| Ok(of_others(&others, copy))).unwrap();
            prop_assert_eq!(again, whole.pages);
        }
    }

    #[test]
    fn long_runs_are_copied_and_short_ones_listed() {
        let page = |n: u8| Some(PageId::of(&[n]));
        let other = object((0..10).map(page).collect());
        let mut pages = vec![page(100)];
        pages.extend((2..8).map(page));
        pages.extend([None, page(3), page(4)]);
        let announced = copied(&object(pages), &[&other]);
        let copy = CopiedPages {
            at: 1,
            object: other.id,
            first: 2,
            count: 6,
        };
        assert_eq!(announced.copies, [copy]);
        assert_eq!(announced.pages.0, [page(100), None, page(3), page(4)]);
    }

    type Runs<'a> = &'a [(u64, u64)];

    #[test]
    fn runs_that_overlap_or_touch_are_read_as_one() {
        let many = [(0, 9); 1000];
        let cases: [(Runs<'_>, Runs<'_>); 5] = [
            (&[], &[]),
            (&[(7, 8), (0, 3), (2, 5), (1, 2)], &[(0, 5), (7, 8)]),
            (&[(4, 6), (0, 4)], &[(0, 6)]),
            (&many, &many[..1]),
            (&[(5, u64::MAX), (0, 4)], &[(0, 4), (5, u64::MAX)]),
        ];
        for (runs, expected) in cases {
            let runs = runs.iter().map(|(start, end)| *start..*end).collect();
            let joined = joined(runs).into_iter().map(|run| (run.start, run.end));
            assert_eq!(joined.collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn copies_that_do_not_fit_are_refused() {
        let copy = |at, count| CopiedPages {
            at,
            object: ObjectId::of(b"other"),
            first: 0,
            count,
        };
        let with = |pages: u64, listed: usize, copies: &[CopiedPages]| AnnouncedObject {
            length: pages * 4096,
            pages: PageList(vec![None; listed]),
            copies: copies.to_vec(),
            ..listed_as_nothing()
        };
        for (object, fits) in [
            (with(5, 2, &[copy(1, 3)]), true),
            (with(5, 2, &[copy(0, 1), copy(3, 2)]), true),
            (with(5, 2, &[copy(0, 3)]), true),
            (with(5, 2, &[copy(2, 3)]), true),
            (with(5, 2, &[copy(3, 3)]), false),
            (with(5, 2, &[copy(1, 2)]), false),
            (with(5, 2, &[copy(1, 0), copy(1, 3)]), false),
            (with(5, 2, &[copy(1, 2), copy(2, 1)]), false),
            (with(5, 2, &[copy(3, 1), copy(0, 2)]), false),
            (with(5, 2, &[copy(0, u64::MAX)]), false),
            (with(5, 2, &[copy(0, 1), copy(1, u64::MAX)]), false),
            (with(5, 2, &[copy(u64::MAX, 3)]), false),
        ] {
            assert_eq!(check(&object).is_ok(), fits, "{object:?}");
        }
    }

    fn listed_as_nothing() -> AnnouncedObject {
        listed(&object(vec![]))
    }
}
