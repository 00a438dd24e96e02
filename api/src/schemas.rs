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
        {"type": "object", "required": ["kind"], "properties": {
            "kind": {"type": "string", "enum": ["sparse"]},
        }},
        {"type": "object", "required": ["kind", "phase"], "properties": {
            "kind": {"type": "string", "enum": ["windows"]}, "phase": phase,
        }},
    ]}))
}

fn count() -> Value {
    json!({"type": "integer", "format": "int64", "minimum": 0})
}

fn segments() -> Value {
    json!({"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": u32::MAX}})
}

fn address() -> Value {
    json!({"type": "string", "pattern": "^0x[0-9a-f]{1,16}$"})
}

/// An object of these properties; a name that ends in `?` may be left out.
fn object<const N: usize>(properties: [(&str, Value); N]) -> Value {
    let required = properties.iter().filter(|(name, _)| !name.ends_with('?'));
    let required: Vec<_> = required.map(|(name, _)| name.to_string()).collect();
    let named = properties
        .into_iter()
        .map(|(name, schema)| (name.trim_end_matches('?').to_owned(), schema));
    let named: serde_json::Map<_, _> = named.collect();
    json!({"type": "object", "required": required, "properties": named})
}

/// Both objects in one, as serde flattens them.
fn merged(first: &Value, second: &Value) -> Value {
    json!({"allOf": [first, second]})
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
        ("abi", json!({"type": "string", "enum": ["linux"]})),
        ("layout", json!({"type": "string", "enum": ["registered", "own"]})),
        ("load_bias", count()),
        ("entry", address()),
        ("program_headers?", object([
            ("address", address()),
            ("count", json!({"type": "integer", "minimum": 0, "maximum": u16::MAX})),
        ])),
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
    ReservationRequest => reservation_request();
    /// `pool_core::registry::Reservation`.
    Reservation => merged(&reservation_request(), &object([
        ("shared", address_range()),
        ("private", address_range()),
        ("tls", object([("offset", count()), ("size", count())])),
        ("slot", object([
            ("shared", address_range()), ("private", address_range()),
            ("tls_offset", count()), ("tls_size", count()),
        ])),
    ]));
    /// `pool_store::stats::StoreStats`.
    StoreStats => object([
        ("tags", count()), ("images", count()), ("libraries", count()),
        ("unused_libraries", count()), ("objects", count()), ("object_bytes", count()),
        ("referenced_pages", count()), ("stored_pages", count()), ("dense_windows", count()),
        ("segments", count()), ("retired_segments", count()), ("dense_slots", count()),
        ("sparse_slots", count()), ("disk_bytes", count()), ("epoch", count()),
    ]);
    /// `pool_gc::CollectReport`.
    CollectReport => object([
        ("dry_run", json!({"type": "boolean"})), ("epoch", count()),
        ("libraries", json!({"type": "array", "items": pair('@')})),
        ("objects", count()), ("pages", count()), ("windows", count()),
        ("segments_retired", segments()), ("segments_evacuated", segments()),
        ("segments_reaped", segments()),
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

fn reservation_request() -> Value {
    object([
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
    ])
}
