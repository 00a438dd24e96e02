//! Whether an image can start elsewhere than it was linked, and what that takes.

use pool_core::PageCount;
use pool_core::description::{RangeKind, Slide};
use pool_core::name::LibraryRef;
use pool_core::page::PAGE_SIZE;
use pool_core::slide::{FieldKind, SlideRecord, pages_of};
use serde::Serialize;

use crate::describe::{DescribedImage, ObjectRole};

/// What can start elsewhere at each run.
#[derive(Clone, Debug, Serialize)]
pub struct SlideReport {
    /// The image as a whole can (`poolvmm run --aslr image`).
    pub image: bool,
    /// So can each of its libraries by itself (`--aslr library`).
    pub libraries: bool,
    /// Why it can't, or why its libraries can't.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
    /// Addresses that are written when it moves as a whole.
    pub addresses: u64,
    /// Bytes of the record of them.
    pub record_bytes: u64,
    /// Pages that they are on, of the application and of each library that has some.
    pub written: Vec<WrittenPages>,
}

/// Pages that are written at a start, and so are the guest's own from then on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WrittenPages {
    /// The library; none for the application.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub library: Option<LibraryRef>,
    /// Pages that are shared otherwise.
    pub shared: PageCount,
    /// Pages that can be written anyway.
    pub private: PageCount,
}

pub(super) fn report(image: &DescribedImage<'_>) -> SlideReport {
    let mut report = SlideReport {
        image: false,
        libraries: false,
        why_not: None,
        addresses: 0,
        record_bytes: 0,
        written: Vec::new(),
    };
    let description = &image.description;
    let refused = match &description.slide {
        Some(Slide::Record { .. }) => None,
        Some(Slide::Fixed { why }) => Some(why.clone()),
        None if description.load_bias != 0 => None,
        None => Some("it was not linked by this version of pool link".to_owned()),
    };
    report.image = refused.is_none();
    report.why_not = refused;
    if report.image && description.load_bias != 0 {
        report.why_not = Some("it relocates itself, as a whole".to_owned());
    }
    let mut records = image
        .objects
        .iter()
        .filter(|object| object.role == ObjectRole::Record);
    // It was checked when the image was described.
    let record = records.next().map(|object| object.content.bytes());
    let record = record
        .as_ref()
        .map(|bytes| (SlideRecord::parse(bytes), bytes.len()));
    let Some((Ok(record), length)) = record else {
        return report;
    };
    let one_piece = record.one_piece(description).map(|why| why.to_string());
    let direct = || record.direct_reference(description);
    report.why_not = one_piece.or_else(|| direct().map(|why| why.to_string()));
    report.libraries = report.why_not.is_none();
    report.record_bytes = length as u64;
    // Distances stay as they are in what moves as a whole.
    let addresses = || {
        record
            .fields()
            .filter(|fields| fields.kind == FieldKind::Address)
    };
    report.addresses = addresses().map(|fields| fields.count).sum();
    for (start, end) in pages_of(addresses()) {
        let ranges = &description.ranges;
        let first = ranges.partition_point(|range| range.end().0 <= start);
        for range in ranges[first..]
            .iter()
            .take_while(|range| range.address.0 < end)
        {
            let length = range.end().0.min(end) - range.address.0.max(start);
            let pages = PageCount(length / PAGE_SIZE);
            let mut written = report.written.iter_mut();
            let known = written.find(|written| written.library == range.library);
            let of = if let Some(of) = known {
                of
            } else {
                report.written.push(WrittenPages {
                    library: range.library.clone(),
                    shared: PageCount(0),
                    private: PageCount(0),
                });
                let last = report.written.len() - 1;
                &mut report.written[last]
            };
            match range.kind {
                RangeKind::Shared => of.shared += pages,
                RangeKind::Private | RangeKind::Zero => of.private += pages,
            }
        }
    }
    report
}
