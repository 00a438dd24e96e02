//! The report of a collection as the OpenAPI document describes it. The report itself is
//! [`pool_gc::CollectReport`], which knows nothing of documents; a test compares the two.

#![allow(dead_code, reason = "these types are described and never made")]

use utoipa::ToSchema;

/// What a collection did, or would do.
#[derive(ToSchema)]
pub(crate) struct CollectReport {
    /// Nothing was changed.
    dry_run: bool,
    /// The collection's epoch; of a dry run, the last one's.
    epoch: u64,
    /// Library versions removed, as NAME@VERSION.
    libraries: Vec<String>,
    /// Objects removed.
    objects: u64,
    /// Pages removed from the index.
    pages: u64,
    /// Dense windows removed from the index.
    windows: u64,
    /// Numbers of segments retired because nothing in them was live.
    segments_retired: Vec<u32>,
    /// Numbers of segments emptied into others and retired.
    segments_evacuated: Vec<u32>,
    /// Numbers of segments unlinked, in this collection or left over from others.
    segments_reaped: Vec<u32>,
    /// Numbers of segments that go once nobody leases them: retired ones, and mostly dead ones.
    segments_waiting: Vec<u32>,
    /// Segments that should have gone and stay. Nothing in them is lost or changed.
    segments_skipped: Vec<SkippedSegment>,
    /// Bytes of disk given back.
    freed_bytes: u64,
    /// Bytes of disk that the waiting segments give back then.
    waiting_bytes: u64,
    /// How long it took, in microseconds.
    duration_us: u64,
    /// The longest that it kept commits waiting, in microseconds.
    longest_hold_us: u64,
}

/// A segment that a collection left as it is.
#[derive(ToSchema)]
pub(crate) struct SkippedSegment {
    /// Its number.
    segment: u32,
    /// Why, for programs.
    reason: SkipReason,
    /// Why, for people.
    why: String,
}

/// Why a segment was left as it is.
#[derive(ToSchema)]
#[schema(rename_all = "kebab-case")]
pub(crate) enum SkipReason {
    /// Something live in it cannot be read, or is not what its digest says.
    Damaged,
    /// The disk has no room for a copy of what is live in it.
    NoRoom,
    /// The copy could not be written.
    NotWritten,
    /// An upload has come to use it since the collection began.
    InUse,
    /// Its file could not be unlinked.
    NotRemoved,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use pool_core::extent::SegmentId;
    use pool_store::collection::{SkipReason, Skipped};
    use serde_json::Value;

    fn keys(value: &Value) -> BTreeSet<&String> {
        value.as_object().map(|map| map.keys().collect()).unwrap()
    }

    #[test]
    fn the_document_describes_the_report_as_it_is() {
        let reasons = [
            SkipReason::Damaged,
            SkipReason::NoRoom,
            SkipReason::NotWritten,
            SkipReason::InUse,
            SkipReason::NotRemoved,
        ];
        let skipped = reasons.map(|reason| Skipped {
            segment: SegmentId(7),
            reason,
            why: "because".into(),
        });
        let report = pool_gc::CollectReport {
            segments_skipped: skipped.into(),
            ..Default::default()
        };
        let report = serde_json::to_value(report).unwrap();
        let document = serde_json::to_value(crate::openapi::document()).unwrap();
        let schemas = &document["components"]["schemas"];
        assert_eq!(keys(&report), keys(&schemas["CollectReport"]["properties"]));
        let skipped = report["segments_skipped"].as_array().unwrap();
        let described = &schemas["SkippedSegment"]["properties"];
        assert_eq!(keys(&skipped[0]), keys(described));
        let told: Vec<_> = skipped.iter().map(|left| left["reason"].clone()).collect();
        let described = schemas["SkipReason"].to_string();
        for (reason, name) in told.iter().zip(reasons.map(SkipReason::name)) {
            assert_eq!(reason, name);
            assert!(described.contains(&reason.to_string()), "{described}");
        }
    }
}
