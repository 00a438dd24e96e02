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
        ("format", json!({"type": "integer", "minimum": 0, "maximum": u32::MAX})),
        ("image", object([("digest", digest_json()), ("length", count())])),
        ("abi", json!({"type": "string", "enum": ["linux", "pvh", "multiboot", "lxboot"]})),
        ("layout", json!({"type": "string", "enum": ["registered", "own"]})),
        ("load_bias", count()),
        ("entry", address()),
        ("program_headers?", object([
            ("address", address()),
            ("count", json!({"type": "integer", "minimum": 0, "maximum": u16::MAX})),
        ])),
        ("executable_stack?", json!({"type": "boolean"})),
        ("libraries?", json!({"type": "array", "items": object([
            ("library", pair('@')), ("object", digest_json()), ("address", address()),
        ])})),
        ("ranges", json!({"type": "array", "items": object([
            ("address", address()),
            ("length", count()),
            ("protection", json!({"type": "string", "pattern": "^[r-][w-][x-]$"})),
            ("kind", json!({"type": "string", "enum": ["shared", "private", "zero"]})),
            ("source?", object([("object", digest_json()), ("offset", count())])),
            ("library?", pair('@')),
        ])})),
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
    ]));
    /// `pool_store::stats::StoreStats`.
    StoreStats => flattened(object([
        ("tags", count()), ("images", count()), ("libraries", count()),
        ("unused_libraries", count()), ("objects", count()), ("object_bytes", count()),
        ("referenced_pages", count()), ("stored_pages", count()), ("dense_windows", count()),
        ("segments", count()), ("retired_segments", count()), ("dense_slots", count()),
        ("sparse_slots", count()), ("disk_bytes", count()), ("epoch", count()),
    ]));
    /// `pool_gc::CollectReport`.
    CollectReport => object([
        ("dry_run", json!({"type": "boolean"})), ("epoch", count()),
        ("libraries", json!({"type": "array", "items": pair('@')})),
        ("objects", count()), ("pages", count()), ("windows", count()),
        ("segments_retired", segments()), ("segments_evacuated", segments()),
        ("segments_reaped", segments()), ("segments_waiting", segments()),
        ("segments_skipped", json!({"type": "array", "items": object([
            ("segment", segment()),
            ("reason", json!({
                "type": "string",
                "enum": ["damaged", "no-room", "not-written", "in-use", "not-removed"],
            })),
            ("why", json!({"type": "string"})),
        ])})),
        ("freed_bytes", count()), ("waiting_bytes", count()),
        ("duration_us", count()), ("longest_hold_us", count()),
    ]);
    /// `pool_gc::FsckReport`.
    FsckReport => object([
        ("level", json!({"type": "string"})),
        ("segments", count()), ("objects", count()), ("pages", count()), ("windows", count()),
        ("findings", json!({"type": "array", "items": object([
            ("problem", json!({"type": "string"})),
            ("severity", json!({"type": "string", "enum": ["waste", "damage"]})),
            ("what", json!({"type": "string"})), ("advice", json!({"type": "string"})),
        ])})),
    ]);
    /// `pool_gc::Why`.
    Why => object([
        ("thing", json!({"type": "object"})),
        ("exists", json!({"type": "boolean"})),
        ("segment", json!({"type": ["integer", "null"]})),
        ("segment_leased", json!({"type": "boolean"})),
        ("objects", json!({"type": "object", "additionalProperties": object([
            ("images", json!({"type": "array", "items": pair(':')})),
            ("libraries", json!({"type": "array", "items": pair('@')})),
            ("pinned", json!({"type": "array", "items": pair('@')})),
            ("leased", json!({"type": "boolean"})),
        ])})),
    ]);
}

fn address_range() -> Value {
    object([("start", address()), ("pages", count())])
}

fn reservation_request() -> [(&'static str, Value); 7] {
    [
        ("library", pair('@')),
        ("identity", digest_json()),
        ("shared_pages", count()),
        ("private_pages", count()),
        ("tls_size?", count()),
        ("tls_alignment?", count()),
        (
            "dependencies?",
            json!({"type": "array", "items": pair('@')}),
        ),
    ]
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
}
