//! Comparing everything in a store with everything else. Nothing is changed, but whoever writes to the store notes whether its index
//! is to be [trusted](StoreView::distrusts_index).
//!
//! First the files of superblock, mark, index and journal are read anew and compared with each other. Then one snapshot of the
//! index is checked, and all its segments are held meanwhile, so uploads and collections may go on.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use pool_core::digest::{ObjectId, PageId};
use pool_core::extent::{Extent, SegmentId};
use pool_core::name::{ImageRef, LibraryRef};
use pool_core::page::{PAGE_SIZE, PAGES_PER_WINDOW, WINDOW_SIZE};
use pool_store::audit::{DamagedFile, Part, audit};
use pool_store::format::{Location, SegmentRecord, SegmentState};
use pool_store::manifest::{ImageManifest, LibraryRecord, TagRecord};
use pool_store::placement::name_of_window;
use pool_store::records::{self, Records};
use pool_store::upload::page_ids;
use pool_store::{
    Reference, Result as StoreResult, Snapshot, StoreError, StoreView, Totals, may_lack_file,
};
use serde::{Deserialize, Serialize};

/// How much is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FsckLevel {
    /// The index and the sizes of files.
    #[default]
    Index,
    /// Also every stored page, window and object against its digest.
    Content,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Room that a restart or a collection gives back.
    Waste,
    /// Something that is kept cannot be read, or is not what it says.
    Damage,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Problem {
    /// The superblock is gone, spoilt or changed.
    Superblock,
    /// The number of acknowledged commits is not the one that was written.
    Mark,
    /// That number is behind, as a power cut leaves it.
    LateMark,
    /// A file of the index is damaged, or the index differs from the journal.
    Index,
    /// The journal is damaged: it could not stand in for the index.
    Journal,
    /// A record of the index, or a file, cannot be read.
    Unreadable,
    /// A segment that the index knows has no file.
    MissingFile,
    /// A segment's file does not have its size.
    FileSize,
    /// A file that the index does not know.
    LeakedFile,
    /// A file that the index did not know when the store was opened, or that a repair replaced.
    LostFile,
    /// An extent, page or window lies outside its segment, or in none.
    Outside,
    /// A page is not what its digest says.
    PageContent,
    /// A window is not what its digest says.
    WindowContent,
    /// An object is not what its digest says.
    ObjectContent,
    /// A name refers to an object that is not there.
    MissingObject,
    /// A tag without manifest or a manifest without tag.
    Tag,
    /// The index of references disagrees with tags and manifests.
    Reference,
    /// A library version is said to be unused and is used, or the other way round.
    UnusedSince,
    /// There are more pages or windows than commits have counted, or fewer.
    Totals,
}

impl Problem {
    /// How bad it is.
    pub fn severity(self) -> Severity {
        match self {
            Self::LeakedFile | Self::LostFile | Self::LateMark | Self::Totals => Severity::Waste,
            _ => Severity::Damage,
        }
    }

    /// What to do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::LeakedFile => "restart poolsvc: it moves files that no commit recorded to lost/",
            Self::LostFile => "remove it if nobody misses it; no page of the index is in it",
            Self::Totals => {
                "nothing is lost, and numbers of pages that were told are wrong, by a defect of this program: please report it; once the service \
                 itself has found it (pool fsck), it counts them anew"
            }
            Self::LateMark => "nothing is lost; the next service that opens the store brings it up",
            Self::Superblock | Self::Mark | Self::Index | Self::Journal | Self::Unreadable => {
                "check the disk (dmesg, smartctl), then stop poolsvc and make the index anew (pool repair), or restore the \
                 store from a backup"
            }
            Self::MissingFile
            | Self::FileSize
            | Self::PageContent
            | Self::WindowContent
            | Self::ObjectContent => {
                "check the disk, then push it again through this service, which writes what is damaged anew"
            }
            Self::Outside => {
                "stop poolsvc and run pool repair, which makes the records of segments right; push again what is outside then"
            }
            Self::MissingObject => "push the image or library version again under the same name",
            Self::Tag | Self::Reference | Self::UnusedSince => {
                "push or tag the image again, which writes its references anew"
            }
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What kind.
    pub problem: Problem,
    /// How bad.
    pub severity: Severity,
    /// What exactly, for people.
    pub what: String,
    /// What to do.
    pub advice: String,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckReport {
    /// How much was read.
    pub level: FsckLevel,
    /// Segments looked at.
    pub segments: u64,
    /// Objects looked at.
    pub objects: u64,
    /// Pages looked at.
    pub pages: u64,
    /// Windows looked at.
    pub windows: u64,
    /// Everything wrong.
    pub findings: Vec<Finding>,
    /// Objects that cannot be read, or are not what their digests say; not for those who read reports.
    #[serde(skip)]
    pub damaged_objects: Vec<ObjectId>,
}

impl FsckReport {
    /// True when nothing is damaged; wasted room alone is no damage.
    pub fn is_sound(&self) -> bool {
        self.findings
            .iter()
            .all(|finding| finding.severity != Severity::Damage)
    }

    fn find(&mut self, problem: Problem, what: impl Into<String>) {
        self.findings.push(Finding {
            problem,
            severity: problem.severity(),
            what: what.into(),
            advice: problem.advice().into(),
        });
    }

    fn find_file(&mut self, file: DamagedFile) {
        let problem = match file.part {
            Part::Superblock => Problem::Superblock,
            Part::Mark => Problem::Mark,
            Part::Index => Problem::Index,
            Part::Checkpoint | Part::Log => Problem::Journal,
        };
        self.findings.push(Finding {
            problem,
            severity: problem.severity(),
            what: format!("{}: {}", file.place(), file.what),
            advice: file.advice,
        });
    }

    /// Notes a scan that could not be finished.
    fn note<T>(&mut self, result: StoreResult<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.find(Problem::Unreadable, error.to_string());
                None
            }
        }
    }
}

/// Checks a store. What cannot be read is a finding, and the rest is checked nevertheless.
pub fn fsck(store: &StoreView, level: FsckLevel) -> FsckReport {
    let mut report = FsckReport {
        level,
        ..FsckReport::default()
    };
    let is_read = check_files(store, &mut report);
    if !is_read && !store.is_writer() {
        // What is missing in it for that is not missing.
        return report;
    }
    let Some(held) = report.note(store.hold_all()) else {
        return report;
    };
    let store = &held.value;
    let segments = check_segments(store, &mut report);
    check_pages(store, level, &segments, &mut report);
    check_windows(store, level, &segments, &mut report);
    check_totals(store, &mut report);
    let objects = check_objects(store, level, &segments, &mut report);
    check_names(store, objects.as_ref(), &mut report);
    // What nothing else refers to must be readable all the same.
    each(store, &records::RESERVATIONS, &mut report, |_, _| ());
    each(store, &records::TOKENS, &mut report, |_, _| ());
    report.note(store.epoch());
    report.note(store.next_segment());
    report
}

/// Reads superblock, mark, index and journal anew and compares them. False when files of the index cannot be read, or may be such.
fn check_files(store: &StoreView, report: &mut FsckReport) -> bool {
    let found = match audit(store, &mut |_| ControlFlow::Continue(())) {
        Ok(ControlFlow::Continue(found)) => found,
        Ok(ControlFlow::Break(())) => return true,
        Err(error) => {
            report.findings.push(Finding {
                problem: Problem::Unreadable,
                severity: Severity::Damage,
                what: error.to_string(),
                advice: "nothing is known to be damaged; see to it that it can be looked at, then look again".into(),
            });
            return false;
        }
    };
    for file in found.damaged {
        report.find_file(file);
    }
    if let Some(late) = found.late_mark {
        report.find(Problem::LateMark, late);
    }
    !found.lacks_tables
}

/// Calls `visit` with each record of a kind, and notes those that cannot be read. True when it came
/// to the end of them, so that what was not visited is not there, or noted.
fn each<T>(
    store: &Snapshot<'_>,
    kind: &Records<T>,
    report: &mut FsckReport,
    mut visit: impl FnMut(&mut FsckReport, T),
) -> bool {
    let scan = store.each(kind, |record| {
        if let Some(record) = report.note(record) {
            visit(report, record);
        }
        Ok(())
    });
    report.note(scan).is_some()
}

/// All records of a kind by their keys; `None` when the end of them cannot be come to.
fn all<K: Ord, V>(
    store: &Snapshot<'_>,
    kind: &Records<(K, V)>,
    report: &mut FsckReport,
) -> Option<BTreeMap<K, V>> {
    let mut all = BTreeMap::new();
    let ended = each(store, kind, report, |_, (key, value)| {
        all.insert(key, value);
    });
    ended.then_some(all)
}

type Segments = BTreeMap<SegmentId, SegmentRecord>;

/// Compares records of segments with files. What lies in one whose record cannot be read is found
/// to lie in none.
fn check_segments(store: &Snapshot<'_>, report: &mut FsckReport) -> Segments {
    let mut segments = Segments::new();
    let mut unreadable = BTreeSet::new();
    for (id, record) in report.note(store.segments_one_by_one()).unwrap_or_default() {
        match record {
            Ok(record) => drop(segments.insert(id, record)),
            Err(error) => {
                let what = format!("the record of segment {id}: {error}");
                report.find(Problem::Unreadable, what);
                unreadable.insert(id);
            }
        }
    }
    report.segments = (segments.len() + unreadable.len()) as u64;
    for (id, record) in &segments {
        let expected = u64::from(record.capacity) * PAGE_SIZE;
        match store.view().segment_file_length(*id) {
            Ok(found) if found == expected || may_lack_file(*record) => {}
            Ok(found) => report.find(
                Problem::FileSize,
                format!("segment {id} has {found} bytes, not {expected}"),
            ),
            // A stop before the file was made, or between its removal and that of its record.
            Err(StoreError::NoSegment(_)) if may_lack_file(*record) => {}
            Err(StoreError::NoSegment(_)) => {
                report.find(Problem::MissingFile, format!("segment {id} has no file"));
            }
            Err(error) => report.find(Problem::Unreadable, error.to_string()),
        }
    }
    for id in report
        .note(store.view().segment_files())
        .unwrap_or_default()
    {
        // Asked again: one that was made since the snapshot has a record by now.
        let known = segments.contains_key(&id) || unreadable.contains(&id);
        if !known && matches!(store.view().segment(id), Ok(None)) {
            report.find(Problem::LeakedFile, format!("no record of segment {id}"));
        }
    }
    for (name, bytes) in report.note(store.view().lost_files()).unwrap_or_default() {
        let what =
            format!("lost/{name}, {bytes} bytes, was moved aside at an opening or by a repair");
        report.find(Problem::LostFile, what);
    }
    segments
}

/// True when `count` slots from `at` on were handed out by a segment that is in use.
fn inside(segments: &Segments, at: Location, count: u32) -> bool {
    segments.get(&at.segment).is_some_and(|record| {
        let end = u64::from(at.slot.0) + u64::from(count);
        record.state != SegmentState::Retired && end <= u64::from(record.used)
    })
}

fn place(at: Location) -> String {
    format!("slot {} of segment {}", at.slot.0, at.segment)
}

fn check_pages(
    store: &Snapshot<'_>,
    level: FsckLevel,
    segments: &Segments,
    report: &mut FsckReport,
) {
    let mut page = vec![0; PAGE_SIZE as usize];
    each(store, &records::PAGES, report, |report, (id, at)| {
        report.pages += 1;
        if !inside(segments, at, 1) {
            report.find(Problem::Outside, format!("page {id} is at {}", place(at)));
        } else if level == FsckLevel::Content {
            match store.view().read_page(at, &mut page) {
                Ok(()) if PageId::of(&page) != id => report.find(
                    Problem::PageContent,
                    format!("{} is not page {id}", place(at)),
                ),
                other => drop(report.note(other)),
            }
        }
    });
}

fn check_windows(
    store: &Snapshot<'_>,
    level: FsckLevel,
    segments: &Segments,
    report: &mut FsckReport,
) {
    let mut content = vec![0; WINDOW_SIZE as usize];
    each(store, &records::WINDOWS, report, |report, (id, at)| {
        report.windows += 1;
        let aligned = at.slot.page_in_window() == 0;
        if !aligned || !inside(segments, at, PAGES_PER_WINDOW as u32) {
            report.find(Problem::Outside, format!("window {id} is at {}", place(at)));
        } else if level == FsckLevel::Content {
            match store.view().read_page(at, &mut content) {
                Ok(()) if name_of_window(&page_ids(&content)) != id => report.find(
                    Problem::WindowContent,
                    format!("{} does not begin window {id}", place(at)),
                ),
                other => drop(report.note(other)),
            }
        }
    });
}

/// Compares what commits have counted with what there is, if all of that can be read.
fn check_totals(store: &Snapshot<'_>, report: &mut FsckReport) {
    let found = Totals {
        pages: report.pages,
        windows: report.windows,
    };
    if let Some(Some(told)) = report.note(store.totals())
        && report.is_sound()
        && told != found
    {
        report.note(store.view().forget_totals());
        report.find(
            Problem::Totals,
            format!(
                "there are {} pages and {} windows, and commits have counted {} and {}",
                found.pages, found.windows, told.pages, told.windows
            ),
        );
    }
}

/// Answers with the objects that there are, `None` when not all can be known.
fn check_objects(
    store: &Snapshot<'_>,
    level: FsckLevel,
    segments: &Segments,
    report: &mut FsckReport,
) -> Option<BTreeSet<ObjectId>> {
    let mut objects = BTreeSet::new();
    let ended = each(store, &records::OBJECTS, report, |report, (id, record)| {
        report.objects += 1;
        objects.insert(id);
        let outside = |extent: &&Extent| {
            let (segment, slot) = (extent.segment, extent.slot);
            !inside(segments, Location { segment, slot }, extent.count)
        };
        if let Some(extent) = record.map.extents().iter().find(outside) {
            let (segment, slot) = (extent.segment, extent.slot);
            let at = place(Location { segment, slot });
            let what = format!("{} pages of object {id} are at {at}", extent.count);
            report.find(Problem::Outside, what);
        } else if level == FsckLevel::Content {
            let view = store.view();
            let looked = view
                .digest_of(&record.map)
                .and_then(|found| Ok((found, view.ends_in_zeros(&record)?)));
            if !matches!(looked, Ok((found, true)) if found == id) {
                report.damaged_objects.push(id);
            }
            match report.note(looked) {
                Some((found, _)) if found != id => report.find(
                    Problem::ObjectContent,
                    format!("the pages of object {id} make up object {found}"),
                ),
                Some((_, false)) => report.find(
                    Problem::ObjectContent,
                    format!("the last page of object {id} has bytes past the object's end"),
                ),
                _ => {}
            }
        }
    });
    ended.then_some(objects)
}

/// Checks what names refer to, and compares tags, manifests and libraries with the index of
/// references, as far as all of them can be known: nothing is missing for want of a look.
fn check_names(
    store: &Snapshot<'_>,
    objects: Option<&BTreeSet<ObjectId>>,
    report: &mut FsckReport,
) {
    let is_missing = |id: ObjectId| objects.is_some_and(|objects| !objects.contains(&id));
    let manifests = all(store, &records::MANIFESTS, report);
    for (id, manifest) in manifests.iter().flatten() {
        for object in manifest.objects().into_iter().filter(|id| is_missing(*id)) {
            let what = format!("manifest {id} refers to object {object}");
            report.find(Problem::MissingObject, what);
        }
        if ObjectId::of(&manifest.description.to_json()) != *id {
            let what = format!("manifest {id} does not have its description's digest");
            report.find(Problem::ObjectContent, what);
        }
    }
    let libraries = all(store, &records::LIBRARIES, report);
    for (library, record) in libraries.iter().flatten() {
        if is_missing(record.object) {
            let what = format!("lib/{library} refers to object {}", record.object);
            report.find(Problem::MissingObject, what);
        }
    }
    let tags = all(store, &records::TAGS, report);
    let mut references = BTreeSet::new();
    let ended = each(store, &records::REFERENCES, report, |_, reference| {
        references.insert(match reference {
            Reference::Tag { manifest, image } => (manifest, format!("image/{image}")),
            Reference::User { library, manifest } => (manifest, format!("lib/{library}")),
        });
    });
    if let (Some(manifests), Some(libraries), Some(tags), true) =
        (manifests, libraries, tags, ended)
    {
        check_references(&manifests, &libraries, &tags, &references, report);
    }
}

fn check_references(
    manifests: &BTreeMap<ObjectId, ImageManifest>,
    libraries: &BTreeMap<LibraryRef, LibraryRecord>,
    tags: &BTreeMap<ImageRef, TagRecord>,
    references: &BTreeSet<(ObjectId, String)>,
    report: &mut FsckReport,
) {
    // What the index of references must hold: no more, no less.
    let mut expected: BTreeSet<(ObjectId, String)> = BTreeSet::new();
    let mut tagged = BTreeSet::new();
    for (image, tag) in tags {
        if !manifests.contains_key(&tag.manifest) {
            let what = format!("image/{image} points at no manifest ({})", tag.manifest);
            report.find(Problem::Tag, what);
        }
        tagged.insert(tag.manifest);
        expected.insert((tag.manifest, format!("image/{image}")));
    }
    let mut used = BTreeSet::new();
    for (id, manifest) in manifests {
        if !tagged.contains(id) {
            report.find(Problem::Tag, format!("manifest {id} has no tag"));
        }
        for user in &manifest.description.libraries {
            used.insert(user.library.clone());
            expected.insert((*id, format!("lib/{}", user.library)));
        }
    }
    for (manifest, name) in references.difference(&expected) {
        let what = format!("{name} and manifest {manifest} are not connected");
        report.find(Problem::Reference, what);
    }
    for (manifest, name) in expected.difference(references) {
        let what = format!("the reference between {name} and manifest {manifest} is missing");
        report.find(Problem::Reference, what);
    }
    for (library, record) in libraries {
        if record.unused_since.is_some() == used.contains(library) {
            let what = format!("lib/{library} is wrongly taken for used or unused");
            report.find(Problem::UnusedSince, what);
        }
    }
    for library in used.iter().filter(|used| !libraries.contains_key(*used)) {
        let what = format!("lib/{library} is used and has no record");
        report.find(Problem::Reference, what);
    }
}
