//! The shape of JSON bodies: objects where the document has objects, with the fields that it
//! lists and no others.
//!
//! serde takes an array for a struct, and what it does not know it overlooks where structures are
//! flattened or tagged or belong to another crate. So the document decides here, too. What a
//! value is (a number, a name, a digest) is for serde and the types to say.

use std::collections::HashMap;
use std::sync::Arc;

use axum::http::Method;
use serde_json::{Map, Value};

use crate::problem::{Problem, Result};

/// The schemas of JSON bodies, by method and pattern of the path.
#[derive(Clone, Debug)]
pub(crate) struct Shapes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    document: Value,
    bodies: HashMap<(Method, String), Value>,
}

impl Shapes {
    /// Those that an OpenAPI document has.
    pub(crate) fn of(document: &Value) -> Self {
        let mut bodies = HashMap::new();
        for (path, item) in document["paths"].as_object().into_iter().flatten() {
            for (method, operation) in item.as_object().into_iter().flatten() {
                let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
                if !schema.is_null()
                    && let Ok(method) = method.to_uppercase().parse()
                {
                    bodies.insert((method, path.clone()), schema.clone());
                }
            }
        }
        Self(Arc::new(Inner {
            document: document.clone(),
            bodies,
        }))
    }

    /// Refuses a body of another shape than that of its route.
    pub(crate) fn check(&self, method: &Method, path: &str, body: &Value) -> Result<()> {
        match self.0.bodies.get(&(method.clone(), path.to_owned())) {
            Some(schema) => self.0.check(schema, body, "the body"),
            None => Err(Problem::internal(format!("{method} {path} takes no JSON"))),
        }
    }
}

impl Inner {
    fn check(&self, schema: &Value, value: &Value, at: &str) -> Result<()> {
        if let Some(reference) = schema["$ref"].as_str() {
            let pointer = reference.trim_start_matches('#');
            let schema = self.document.pointer(pointer).unwrap_or(&Value::Null);
            return self.check(schema, value, at);
        }
        if let Some(variants) = schema["oneOf"].as_array() {
            let tag = &value["kind"];
            let of_kind = |variant: &&Value| {
                let kinds = variant["properties"]["kind"]["enum"].as_array();
                kinds.is_some_and(|kinds| kinds.contains(tag))
            };
            return match (variants.iter().find(of_kind), value) {
                (Some(variant), _) => self.check(variant, value, at),
                // serde takes the number of a variant for its name, and its fields would be unchecked.
                (None, Value::Object(_)) if !tag.is_string() && !tag.is_null() => {
                    let what = format!("the kind of {at} is no string");
                    Err(Problem::bad_request("bad-json", what).hint("see /v1/openapi.json"))
                }
                // Which kinds there are is for serde to say.
                (None, Value::Object(_)) => Ok(()),
                (None, _) => Err(no_object(at, value)),
            };
        }
        match (schema["type"].as_str(), value) {
            (Some("object"), Value::Object(fields)) => self.check_fields(schema, fields, at),
            (Some("object"), _) => Err(no_object(at, value)),
            (Some("array"), Value::Array(list)) => {
                for (position, element) in list.iter().enumerate() {
                    self.check(&schema["items"], element, &format!("{at}[{position}]"))?;
                }
                Ok(())
            }
            // serde takes it for a field that is left out.
            (Some(kind), Value::Null) if kind != "null" => {
                let what = format!("{at} is null where the type {kind} belongs");
                Err(Problem::bad_request("bad-json", what).hint("leave it out, or give it a value"))
            }
            _ => Ok(()),
        }
    }

    fn check_fields(&self, schema: &Value, fields: &Map<String, Value>, at: &str) -> Result<()> {
        for (name, value) in fields {
            let Some(schema) = schema["properties"].get(name) else {
                let shown: String = name.chars().take(80).collect();
                let known = schema["properties"].as_object().into_iter().flatten();
                let known: Vec<_> = known.map(|(name, _)| name.as_str()).collect();
                let what = format!("there is no field {shown:?} in {at}");
                let hint = format!("the fields there are {}", known.join(", "));
                return Err(Problem::bad_request("bad-json", what).hint(hint));
            };
            self.check(schema, value, name)?;
        }
        Ok(())
    }
}

fn no_object(at: &str, value: &Value) -> Problem {
    let kind = match value {
        Value::Array(_) => "a JSON array",
        Value::Null => "null",
        _ => "a plain value",
    };
    let what = format!("{at} is {kind} where an object belongs");
    Problem::bad_request("bad-json", what).hint("see /v1/openapi.json")
}
