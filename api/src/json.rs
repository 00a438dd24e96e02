//! JSON bodies: of the shape that the document gives them, each field once.

use std::fmt;

use axum::extract::{FromRequest, MatchedPath, Request};
use axum::http::{StatusCode, header};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use tokio::sync::OwnedSemaphorePermit;

use crate::body::LimitedBody;
use crate::problem::{self, Problem};
use crate::service::{Room, Service, blocking};
use crate::shape::Shapes;

/// What to do about a body that is too long: no flag raises what JSON may take.
const HINT: &str = "send less at a time: JSON has limits of its own, whatever body-limit says";

/// A JSON body of the length that any but an announcement may have.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned + Send + 'static> FromRequest<Service> for JsonBody<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, service: &Service) -> problem::Result<Self> {
        let limit = service.options().limits.json;
        let (value, _room) = read_json(service, request, limit, service.json_room()).await?;
        Ok(Self(value))
    }
}

/// Reads a JSON body of at most `limit` bytes; answers with the room that it takes, too.
pub(crate) async fn read_json<T: DeserializeOwned + Send + 'static>(
    service: &Service,
    request: Request,
    limit: u64,
    room: &Room,
) -> problem::Result<(T, OwnedSemaphorePermit)> {
    let (parts, body) = request.into_parts();
    let headers = &parts.headers;
    let is_json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|value| value.trim().eq_ignore_ascii_case("application/json"));
    if !is_json {
        // A web page may make a browser send plain text anywhere, but not JSON.
        let what = "the body must be JSON";
        return Err(
            Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-json", what)
                .hint("send the header Content-Type: application/json"),
        );
    }
    let shapes = parts.extensions.get::<Shapes>().cloned();
    let path = parts.extensions.get::<MatchedPath>().cloned();
    let (Some(shapes), Some(path)) = (shapes, path) else {
        return Err(Problem::internal("a body is read outside the routes"));
    };
    let mut body = LimitedBody::new(service, headers, body, limit, HINT)?;
    let (bytes, taken) = body.read_all(room).await?;
    let read = blocking(move || {
        if memory_of(&bytes) > limit {
            let what = format!(
                "the body holds so many values that they take more than {limit} bytes of memory, the \
                 limit here"
            );
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            return Err(Problem::new(status, "too-large", what).hint(HINT));
        }
        let check = |value: &Value| shapes.check(&parts.method, path.as_str(), value);
        Ok((from_json(&bytes, check)?, taken))
    });
    read.await
}

/// Memory that JSON takes once it is read, beside its text: a number of two bytes takes 32, and an
/// object has room for eleven fields from its first on.
fn memory_of(json: &[u8]) -> u64 {
    let of = |byte: &u8| match byte {
        b'{' => 704,
        b'[' | b',' => 64,
        _ => 0,
    };
    json.iter().map(of).sum()
}

/// Reads JSON whose shape `check` lets pass. An integer is one also when it is written `64.0` (as
/// JSON Schema has it), which serde does not know.
fn from_json<T: DeserializeOwned>(
    json: &[u8],
    check: impl FnOnce(&Value) -> problem::Result<()>,
) -> problem::Result<T> {
    let refused = |error: serde_json::Error| {
        let what = format!("the body is not the JSON that belongs here: {error}");
        Problem::bad_request("bad-json", what).hint("see /v1/openapi.json for its form")
    };
    let Once(mut value) = serde_json::from_slice(json).map_err(refused)?;
    check(&value)?;
    make_whole(&mut value);
    serde_json::from_value(value).map_err(refused)
}

/// Writes whole numbers as integers.
fn make_whole(value: &mut Value) {
    match value {
        Value::Number(number) => {
            // Doubles are exact up to here.
            let exact = 0.0..9_007_199_254_740_992.0;
            let float = number.as_f64().filter(|_| number.is_f64());
            let whole = float.filter(|float| exact.contains(float) && float.fract() == 0.0);
            if let Some(whole) = whole {
                *value = Value::from(whole as u64);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(make_whole),
        Value::Object(map) => map.values_mut().for_each(make_whole),
        _ => {}
    }
}

/// JSON in which no object has two fields of one name: which of them is meant, readers do not agree
/// on (RFC 8259, 4).
struct Once(Value);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OnceVisitor).map(Self)
    }
}

struct OnceVisitor;

impl<'de> Visitor<'de> for OnceVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Once(element)) = elements.next_element()? {
            list.push(element);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            if map.contains_key(&name) {
                let shown: String = name.chars().take(80).collect();
                return Err(A::Error::custom(format!(
                    "the field {shown:?} is there twice"
                )));
            }
            let Once(value) = fields.next_value()?;
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_integers_however_written() {
        let read = |json: &str| from_json::<Vec<u64>>(json.as_bytes(), |_| Ok(())).ok();
        assert_eq!(read("[64.0, 1e3, 7]"), Some(vec![64, 1000, 7]));
        assert_eq!(
            read("[1879429720717871.0]"),
            Some(vec![1_879_429_720_717_871])
        );
        assert_eq!(read("[18446744073709551615]"), Some(vec![u64::MAX]));
        for bad in ["[0.5]", "[-1.0]", "[1e300]", "[\"1\"]", "["] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_field_is_there_once() {
        let read = |json: &str| serde_json::from_str::<Once>(json).map(|Once(value)| value);
        let json = r#"{"a": [null, true, -1, 1, 0.5, "x"], "b": {"a": 1}}"#;
        assert_eq!(
            read(json).unwrap(),
            serde_json::from_str::<Value>(json).unwrap()
        );
        for bad in [
            r#"{"a": 1, "a": 1}"#,
            r#"{"a": 1, "b": 2.0, "\u0061": 1}"#,
            r#"[{"b": {"a": 1, "a": 2}}]"#,
        ] {
            let error = read(bad).unwrap_err().to_string();
            assert!(error.contains("\"a\" is there twice"), "{error}");
        }
    }
}
