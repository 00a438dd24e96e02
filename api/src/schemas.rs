//! JSON schemas of types that other crates own, and of what many types share.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use pool_core::name::NAME_PATTERN;
use serde_json::{Value, json};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;

/// Bytes of a prefix of `NAME@VERSION` or `NAME:TAG`.
pub(crate) const PREFIX_LENGTH: RangeInclusive<usize> = 1..=257;

fn schema(json: Value) -> Schema {
    serde_json::from_value(json).expect("the schemas of this file are schemas")
}

pub(crate) fn digest() -> Schema {
    schema(digest_json())
}

fn digest_json() -> Value {
    json!({"type": "string", "description": "BLAKE3-256 of the content", "pattern": "^[0-9a-f]{64}$"})
}

pub(crate) fn digests() -> Schema {
    schema(json!({"type": "array", "items": digest_json()}))
}

/// A digest, or the number of a segment.
pub(crate) fn digest_or_segment() -> Schema {
    schema(json!({"type": "string", "pattern": "^([0-9a-f]{64}|[0-9a-f]{8})$"}))
}

pub(crate) fn name() -> Schema {
    schema(json!({"type": "string", "pattern": NAME_PATTERN}))
}

pub(crate) fn prefix() -> Schema {
    let longest = PREFIX_LENGTH.end() - 1;
    let pattern = format!("^[A-Za-z0-9][A-Za-z0-9._+~@:-]{{0,{longest}}}$");
    schema(json!({"type": "string", "pattern": pattern}))
}

fn pair(separator: char) -> Value {
    let name = NAME_PATTERN.trim_start_matches('^').trim_end_matches('$');
    json!({"type": "string", "pattern": format!("^{name}{separator}{name}$")})
}

pub(crate) fn library() -> Schema {
    schema(pair('@'))
}

pub(crate) fn image() -> Schema {
    schema(pair(':'))
}

pub(crate) fn libraries() -> Schema {
    schema(json!({"type": "array", "items": pair('@')}))
}

pub(crate) fn images() -> Schema {
    schema(json!({"type": "array", "items": pair(':')}))
}

/// Base64 of whole digests, three of which are 128 characters.
pub(crate) fn pages() -> Schema {
    schema(json!({
        "type": "string",
        "description": "Base64 of page digests, 32 bytes each",
        "pattern": "^([A-Za-z0-9+/]{128})*([A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=|[A-Za-z0-9+/]{85}[AQgw]==)?$",
    }))
}

pub(crate) fn scope() -> Schema {
    schema(json!({"type": "string", "enum": ["read", "write", "admin"]}))
}

pub(crate) fn placement() -> Schema {
    let phase = json!({
        "type": "integer", "minimum": 0, "maximum": 65535,
        "description": "Position of the first page in its 2 MiB window, at most 511",
    });
    schema(json!({"oneOf": [
        object([("kind", json!({"type": "string", "enum": ["sparse"]}))]),
        object([("kind", json!({"type": "string", "enum": ["windows"]})), ("phase", phase)]),
    ]}))
}

fn count() -> Value {
    json!({"type": "integer", "format": "int64", "minimum": 0})
}

fn segment() -> Value {
    json!({"type": "integer", "minimum": 0, "maximum": u32::MAX})
}

fn segments() -> Value {
    json!({"type": "array", "items": segment()})
}

fn address() -> Value {
    json!({"type": "string", "pattern": "^0x[0-9a-f]{1,16}$"})
}

/// An object of these properties and no others; a name that ends in `?` may be left out.
fn object(properties: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let properties: Vec<_> = properties.into_iter().collect();
    let required = properties.iter().filter(|(name, _)| !name.ends_with('?'));
    let required: Vec<_> = required.map(|(name, _)| name.to_string()).collect();
    let named = properties
        .into_iter()
        .map(|(name, schema)| (name.trim_end_matches('?').to_owned(), schema));
    let named: serde_json::Map<_, _> = named.collect();
    json!({
        "type": "object", "required": required, "properties": named,
        "additionalProperties": false,
    })
}

/// The schema of something that wants saying what it is.
fn told(what: &str, mut schema: Value) -> Value {
    schema["description"] = what.into();
    schema
}

fn count_of(what: &str) -> Value {
    told(what, count())
}

/// An object beside whose fields others stand, as serde flattens it.
fn flattened(mut object: Value) -> Value {
    if let Some(object) = object.as_object_mut() {
        object.remove("additionalProperties");
    }
    object
}

macro_rules! foreign {
    ($($(#[$doc:meta])* $name:ident => $schema:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub(crate) struct $name;

        impl utoipa::PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                RefOr::T(schema($schema))
            }
        }

        impl utoipa::ToSchema for $name {
            fn name() -> Cow<'static, str> {
                stringify!($name).into()
            }
        }
    )*};
}

foreign! {
    /// `pool_core::description::Description`.
    Description => object([
        ("format", told("The format of this description", json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}))),
        ("image", told("The file described", object([("digest", digest_json()), ("length", count())]))),
        ("abi", told("What the guest calls", json!({"type": "string", "enum": ["linux", "pvh", "multiboot", "lxboot"]}))),
        ("layout", told("Whether libraries lie at their registered addresses, or the program has addresses of its own", json!({"type": "string", "enum": ["registered", "own"]}))),
        ("load_bias", told("Added to every address already; 0 for a fixed-position executable", count())),
        ("entry", told("Address of the first instruction", address())),
        ("program_headers?", told("Where the program headers are in memory", object([
            ("address", address()),
            ("count", json!({"type": "integer", "minimum": 0, "maximum": u16::MAX})),
        ]))),
        ("executable_stack?", told("The program asks for a stack that it may execute", json!({"type": "boolean"}))),
        ("slide?", told("Whether it can start elsewhere: by a record of what holds addresses, or the reason why not", json!({"oneOf": [
            object([("kind", kind("record")), ("object", digest_json()), ("length", count())]),
            object([("kind", kind("fixed")), ("why", json!({"type": "string"}))]),
        ]}))),
        ("libraries?", told("Library versions used, in link order", json!({"type": "array", "items": object([
            ("library", pair('@')), ("object", digest_json()), ("address", address()),
        ])}))),
        ("ranges", told("The address map, sorted, without overlap", json!({"type": "array", "items": object([
            ("address", address()),
            ("length", count()),
            ("protection", json!({"type": "string", "pattern": "^[r-][w-][x-]$"})),
            ("kind", json!({"type": "string", "enum": ["shared", "private", "zero"]})),
            ("source?", object([("object", digest_json()), ("offset", count())])),
            ("library?", pair('@')),
        ])}))),
    ]);
    /// `pool_core::registry::ReservationRequest`.
    ReservationRequest => object(reservation_request());
    /// `pool_core::registry::Reservation`.
    Reservation => object(reservation_request().into_iter().chain([
        ("shared", address_range()),
        ("private", address_range()),
        ("tls", object([("offset", count()), ("size", count())])),
        ("slot", object([
            ("shared", address_range()), ("private", address_range()),
            ("tls_offset", count()), ("tls_size", count()),
        ])),
        ("follows?", told(
            "Digest of the record of its places, if it keeps an earlier version's: its linked bytes follow from that record",
            digest_json(),
        )),
    ]));
    /// Names and versions of libraries.
    LibraryRefs => json!({"type": "array", "items": pair('@')});
    /// `pool_core::registry::Known`.
    Known => object([
        ("state", told(
            "Whether the version is registered by itself, or keeping an earlier one's places, or is new after an earlier one, or neither",
            json!({"type": "string", "enum": ["alone", "keeping", "earlier", "nothing"]}),
        )),
        ("version?", told("The earlier one", pair('@'))),
        ("places?", told("Where everything is: in the version itself if it is registered, else in the earlier one", places())),
    ]);
    /// `pool_store::stats::StoreStats`.
    StoreStats => flattened(object([
        ("tags", count_of("Tags")),
        ("images", count_of("Images, however many tags they have")),
        ("libraries", count_of("Library versions")),
        ("unused_libraries", count_of("Library versions that no image uses")),
        ("objects", count_of("Objects")),
        ("object_bytes", count_of("Bytes of all objects, as if each were kept whole")),
        ("referenced_pages", count_of("Pages that objects refer to, those of zeros left out")),
        ("stored_pages", count_of("Distinct pages kept")),
        ("dense_windows", count_of("Windows of 2 MiB that are stored densely")),
        ("segments", count_of("Segments that can be mapped")),
        ("retired_segments", count_of("Segments that wait for their last lease to end")),
        ("dense_slots", count_of("Slots handed out in dense segments: each window counts 512")),
        ("sparse_slots", count_of("Slots handed out in sparse segments")),
        ("disk_bytes", count_of("Bytes of disk that segments take up")),
        ("epoch", count_of("Collections begun since the store was made")),
        ("not_counted", told("What cannot be read and so is in no number: of each kind of records the first", json!({"type": "array", "items": {"type": "string"}}))),
    ]));
    /// `pool_store::quota::QuotaUse`.
    QuotaUse => object([
        ("prefix", told("What the names of images and libraries begin with", json!({"type": "string"}))),
        ("bytes", count_of("Bytes that the files under them may have together")),
        ("used_bytes", told("Bytes that they have; null while something cannot be read that would count", json!({"type": ["integer", "null"], "format": "int64", "minimum": 0}))),
    ]);
    /// `pool_gc::CollectReport`.
    CollectReport => object([
        ("dry_run", told("Nothing was changed", json!({"type": "boolean"}))),
        ("stopped", told("It was stopped before its end: the next one does the rest", json!({"type": "boolean"}))),
        ("epoch", count_of("The collection's number; of a dry run, the last one's")),
        ("libraries", told("Library versions removed", json!({"type": "array", "items": pair('@')}))),
        ("objects", count_of("Objects removed")),
        ("pages", count_of("Pages removed from the index")),
        ("windows", count_of("Dense windows removed from the index")),
        ("segments_retired", told("Retired because nothing in them was live", segments())),
        ("segments_evacuated", told("Emptied into others and retired", segments())),
        ("segments_reaped", told("Unlinked, in this collection or left over from others", segments())),
        ("segments_waiting", told("They go once nobody leases them", segments())),
        ("segments_skipped", told(
            "They should have gone and stay; nothing in them is lost or changed",
            skipped(),
        )),
        ("freed_bytes", count_of("Bytes of disk given back")),
        ("waiting_bytes", count_of("Bytes of disk that segments_waiting give back then")),
        ("duration_us", count_of("How long it took, in microseconds")),
        ("longest_hold_us", count_of("The longest that it kept commits waiting, in microseconds")),
    ]);
    /// `pool_gc::Cause`.
    Cause => json!({"type": "string", "enum": ["asked", "scheduled", "full-disk"]});
    /// `pool_gc::Collected`.
    Collected => object([
        ("begun_at", count_of("When it was begun, in seconds since 1970")),
        ("cause", told(
            "Why: somebody asked for it, it was due, or a request found no room on the disk",
            json!({"type": "string", "enum": ["asked", "scheduled", "full-disk"]}),
        )),
        ("outcome", told(
            "It came to its end, somebody stopped it, or it could not go on",
            json!({"type": "string", "enum": ["done", "stopped", "failed"]}),
        )),
        ("error?", told("Why it could not go on", json!({"type": "string"}))),
        ("libraries", count_of("Library versions removed")),
        ("objects", count_of("Objects removed")),
        ("pages", count_of("Pages removed from the index")),
        ("segments", count_of("Segments unlinked")),
        ("freed_bytes", count_of("Bytes of disk given back")),
        ("waiting_bytes", count_of("Bytes of disk that wait for leases to end")),
        ("left", count_of("Segments that should have gone and stayed")),
        ("segments_left", told("The first of them, and why", skipped())),
        ("duration_us", count_of("How long it took, in microseconds")),
        ("longest_hold_us", count_of("The longest that it kept commits waiting, in microseconds")),
    ]);
    /// `pool_gc::FsckReport`.
    FsckReport => object([
        ("level", told(
            "How much was read: the index and the sizes of files, or every page too",
            json!({"type": "string", "enum": ["index", "content"]}),
        )),
        ("segments", count_of("Segments looked at")),
        ("objects", count_of("Objects looked at")),
        ("pages", count_of("Pages looked at")),
        ("windows", count_of("Windows looked at")),
        ("findings", told(
            "Everything wrong; waste alone is no damage",
            json!({"type": "array", "items": object([
                ("problem", json!({"type": "string"})),
                ("severity", json!({"type": "string", "enum": ["waste", "damage"]})),
                ("what", json!({"type": "string"})), ("advice", json!({"type": "string"})),
            ])}),
        )),
    ]);
    /// `pool_gc::Scrubbed`.
    Scrubbed => object([
        ("complete", told(
            "It came to the store's end; otherwise the service was stopped, another scrub asked for, or the index could not all be read",
            json!({"type": "boolean"}),
        )),
        ("segments", count_of("Segments read")),
        ("pages", count_of("Pages in them that objects consist of")),
        ("doubtful_pages", count_of("Pages for which their objects had to be asked")),
        ("damaged_objects", told(
            "Objects that are not what their digests say",
            json!({"type": "array", "items": digest()}),
        )),
        ("damaged_files", told(
            "Files of superblock, mark, index and journal that are not what they should be",
            json!({"type": "array", "items": object([
                ("part", json!({"type": "string", "enum": ["superblock", "mark", "index", "checkpoint", "log"]})),
                ("file", told("In the store's directory", json!({"type": "string"}))),
                ("offset", told("The byte from which on it is damaged, where that is known", json!({"type": ["integer", "null"]}))),
                ("what", json!({"type": "string"})), ("advice", json!({"type": "string"})),
                ("mended", told("It was written anew", json!({"type": "boolean"}))),
            ])}),
        )),
    ]);
    /// `pool_gc::Why`.
    Why => object([
        ("thing", told("What was asked about", json!({"type": "object"}))),
        ("exists", told("The pool has it", json!({"type": "boolean"}))),
        ("segment", told(
            "Of a page: the segment that holds it. Of a segment: itself",
            json!({"type": ["integer", "null"]}),
        )),
        ("segment_leased", told("Somebody holds that segment open", json!({"type": "boolean"}))),
        ("objects", told(
            "The objects that need the thing, and who needs those",
            json!({"type": "object", "additionalProperties": object([
                ("images", json!({"type": "array", "items": pair(':')})),
                ("libraries", json!({"type": "array", "items": pair('@')})),
                ("pinned", json!({"type": "array", "items": pair('@')})),
                ("leased", json!({"type": "boolean"})),
            ])}),
        )),
    ]);
}

/// Segments that stay, and why.
fn skipped() -> Value {
    json!({"type": "array", "items": object([
        ("segment", segment()),
        ("reason", json!({
            "type": "string",
            "enum": ["damaged", "no-room", "not-written", "in-use", "not-removed"],
        })),
        ("why", json!({"type": "string"})),
    ])})
}

/// Which of several forms it is.
fn kind(name: &str) -> Value {
    json!({"type": "string", "enum": [name]})
}

fn address_range() -> Value {
    object([("start", address()), ("pages", count())])
}

fn reservation_request() -> [(&'static str, Value); 10] {
    [
        ("library", pair('@')),
        ("identity", digest_json()),
        ("shared_pages", count()),
        ("private_pages", count()),
        ("shared_alignment?", count()),
        ("tls_size?", count()),
        ("tls_alignment?", count()),
        (
            "dependencies?",
            json!({"type": "array", "items": pair('@')}),
        ),
        (
            "keeps?",
            told("The earlier version whose places it keeps", pair('@')),
        ),
        (
            "places?",
            told(
                "Where everything is in it, as its linker has it; not in reservations",
                places(),
            ),
        ),
    ]
}

fn places() -> Value {
    json!({
        "type": "string",
        "contentEncoding": "base64",
        "pattern": "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use pool_core::extent::SegmentId;
    use pool_store::collection::{SkipReason, Skipped};

    fn keys(value: &Value) -> BTreeSet<&String> {
        value.as_object().map(|map| map.keys().collect()).unwrap()
    }

    #[test]
    fn the_document_describes_a_collections_report_as_it_is() {
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
        let schema = <CollectReport as utoipa::PartialSchema>::schema();
        let schema = serde_json::to_value(schema).unwrap();
        let described = &schema["properties"];
        assert_eq!(keys(&report), keys(described));
        let skipped = report["segments_skipped"].as_array().unwrap();
        let described = &described["segments_skipped"]["items"]["properties"];
        assert_eq!(keys(&skipped[0]), keys(described));
        let told: Vec<_> = skipped.iter().map(|left| &left["reason"]).collect();
        let described: Vec<_> = described["reason"]["enum"]
            .as_array()
            .unwrap()
            .iter()
            .collect();
        assert_eq!(told, described);
        for (reason, name) in told.iter().zip(reasons.map(SkipReason::name)) {
            assert_eq!(**reason, name);
        }
    }

    #[test]
    fn the_document_describes_a_history_as_it_is() {
        let failed = pool_gc::Collected::of(1, pool_gc::Cause::Asked, &Err("why".into()));
        let failed = serde_json::to_value(failed).unwrap();
        let schema = <Collected as utoipa::PartialSchema>::schema();
        let schema = serde_json::to_value(schema).unwrap();
        assert_eq!(keys(&failed), keys(&schema["properties"]));
        for value in [&failed["cause"], &failed["outcome"]] {
            let described = schema["properties"].as_object().unwrap().values();
            let mut names = described.filter_map(|property| property["enum"].as_array());
            assert!(names.any(|names| names.contains(value)), "{value}");
        }
    }

    #[test]
    fn the_document_describes_a_scrub_as_it_is() {
        let scrubbed = pool_gc::Scrubbed {
            is_complete: true,
            report: pool_store::scrub::ScrubReport::default(),
        };
        let scrubbed = serde_json::to_value(scrubbed).unwrap();
        let schema = <Scrubbed as utoipa::PartialSchema>::schema();
        let schema = serde_json::to_value(schema).unwrap();
        assert_eq!(keys(&scrubbed), keys(&schema["properties"]));
    }

    #[test]
    fn the_document_describes_a_quota_as_it_is() {
        let quota = pool_store::quota::QuotaUse {
            prefix: "team-".into(),
            bytes: 2,
            used_bytes: Some(1),
        };
        let quota = serde_json::to_value(quota).unwrap();
        let schema = <QuotaUse as utoipa::PartialSchema>::schema();
        let schema = serde_json::to_value(schema).unwrap();
        assert_eq!(keys(&quota), keys(&schema["properties"]));
    }

    /// A description with all that may be left out: the document has no fewer and no other names.
    #[test]
    fn the_document_describes_a_description_as_it_is() {
        let mut description: Value = serde_json::from_str(
            r#"{"format": 1, "image": {"digest": "DIGEST", "length": 1}, "abi": "linux",
                "layout": "own", "load_bias": 0, "entry": "0x1000",
                "program_headers": {"address": "0x1000", "count": 1},
                "executable_stack": true, "slide": {"kind": "fixed", "why": "it is"}, "libraries": [], "ranges": []}"#,
        )
        .unwrap();
        description["format"] = pool_core::description::DESCRIPTION_FORMAT.into();
        description["image"]["digest"] = "0".repeat(64).into();
        let read: pool_core::description::Description =
            serde_json::from_value(description).unwrap();
        let written = serde_json::to_value(read).unwrap();
        let schema = <Description as utoipa::PartialSchema>::schema();
        let schema = serde_json::to_value(schema).unwrap();
        assert_eq!(keys(&written), keys(&schema["properties"]));
    }

    #[test]
    fn what_is_counted_is_told() {
        let schemas = [
            <Description as utoipa::PartialSchema>::schema(),
            <StoreStats as utoipa::PartialSchema>::schema(),
            <QuotaUse as utoipa::PartialSchema>::schema(),
            <CollectReport as utoipa::PartialSchema>::schema(),
            <Collected as utoipa::PartialSchema>::schema(),
            <FsckReport as utoipa::PartialSchema>::schema(),
            <Scrubbed as utoipa::PartialSchema>::schema(),
            <Why as utoipa::PartialSchema>::schema(),
        ];
        for schema in schemas {
            let schema = serde_json::to_value(schema).unwrap();
            for (name, property) in schema["properties"].as_object().unwrap() {
                assert!(property["description"].is_string(), "{name}");
            }
        }
    }
}
