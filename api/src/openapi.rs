//! The description of this API for programs (OpenAPI 3.1).
//!
//! Each route's part of it is written beside the route, and a route is registered with its part
//! and in no other way, so the document cannot list what is not served, nor leave anything out.
//! What holds of all routes of a kind (who may ask, conditions, refusals) is added here, once.

use pool_store::manifest::TokenScope;
use serde_json::{Value, json};
use utoipa::OpenApi;

/// What is not about a single route.
#[derive(Debug, OpenApi)]
#[openapi(
    info(
        title = "poolfs",
        description = "Keeps each 4 KiB page of unikernel images and their libraries once. An \
                       upload announces its objects as lists of page digests, sends the pages \
                       that are missing, and commits; or it is a whole file in one PUT."
    ),
    components(schemas(crate::problem::ProblemBody)),
    tags(
        (name = "uploads", description = "Upload by negotiation"),
        (name = "images", description = "Tagged images"),
        (name = "libraries", description = "Library versions"),
        (name = "objects", description = "Content by digest"),
        (name = "registry", description = "Registered addresses"),
        (name = "collection", description = "Garbage and its collection"),
        (name = "tokens", description = "Who may do what"),
        (name = "service", description = "The service itself"),
    )
)]
pub(crate) struct Document;

/// Adds to the routes' own parts what holds of all of their kind. `scope` says what a method and
/// path needs; `needs_token` whether the service has a token.
pub(crate) fn complete(
    routes: &utoipa::openapi::OpenApi,
    scope: fn(&str, &str) -> Option<TokenScope>,
    needs_token: bool,
) -> Value {
    let mut document = serde_json::to_value(routes).expect("a document has only string keys");
    document["components"]["securitySchemes"] = json!({"token": {
        "type": "http", "scheme": "bearer",
        "description": "Asked for as soon as the service has a token.",
    }});
    widen_counts(&mut document);
    // utoipa says it of structures alone.
    let targets = &mut document["components"]["schemas"]["UploadTarget"]["oneOf"];
    for target in targets.as_array_mut().into_iter().flatten() {
        target["additionalProperties"] = json!(false);
    }
    for (path, item) in document["paths"].as_object_mut().into_iter().flatten() {
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            let scope = scope(&method.to_uppercase(), path);
            let parameters = operation
                .get_mut("parameters")
                .and_then(Value::as_array_mut);
            for parameter in parameters.into_iter().flatten() {
                if parameter["in"] == "path" {
                    // utoipa asks the type, which for these is described by hand.
                    parameter["required"] = json!(true);
                }
            }
            operation["security"] = match (scope, needs_token) {
                (None, _) => json!([]),
                (Some(_), true) => json!([{"token": []}]),
                (Some(_), false) => json!([{}, {"token": []}]),
            };
            // Routes are functions of a module each, but this must be one of all (OpenAPI 3.1, 4.8.10).
            let id = |field: &Value| field.as_str().unwrap_or_default().to_owned();
            let (topic, name) = (id(&operation["tags"][0]), id(&operation["operationId"]));
            operation["operationId"] = json!(format!("{topic}_{name}"));
            add_refusals(operation, method != "get", scope.is_some());
            add_conditions(operation, method == "get");
            responses_are_problems(operation);
        }
    }
    document
}

/// Counts are 64 bits without a sign, for which OpenAPI has no format.
fn widen_counts(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.get("format") == Some(&json!("int64"))
                && map.get("minimum").is_some_and(Value::is_u64)
            {
                map.insert("format".into(), json!("uint64"));
                map.insert("maximum".into(), json!(u64::MAX));
            }
            map.values_mut().for_each(widen_counts);
        }
        Value::Array(list) => list.iter_mut().for_each(widen_counts),
        _ => {}
    }
}

fn add_refusals(operation: &mut Value, changes: bool, guarded: bool) {
    let mut refusals = vec![
        (400, "The request is malformed"),
        (500, "The service met a defect or damage"),
        (501, "The body is in a transfer coding other than chunked"),
    ];
    if guarded {
        refusals.push((401, "A token is needed, or the one shown is not known"));
    }
    if changes {
        let scope = "The token's scope is too small, or a web page asks, or a quota is reached (`quota-exceeded`)";
        let unable = "The service cannot do it now: try again after as many seconds as \
                      Retry-After says. With `in-doubt` the change is made and not \
                      acknowledged, as its note could not be written: asked for again, it \
                      finds what is there";
        refusals.push((403, scope));
        refusals.push((503, unable));
        refusals.push((
            415,
            "The body is coded, or of a type that does not belong here",
        ));
        refusals.push((507, "The disk is full"));
    } else {
        let unable =
            "The service cannot do it now: try again after as many seconds as Retry-After says";
        refusals.push((503, unable));
        if guarded {
            refusals.push((403, "The token's scope is too small, or a web page asks"));
        }
    }
    if operation.get("requestBody").is_some() {
        refusals.push((408, "The body comes too slowly, or not at all"));
        refusals.push((413, "The body is too long"));
    }
    for (status, description) in refusals {
        let responses = &mut operation["responses"];
        let status = status.to_string();
        if responses.get(&status).is_none() {
            responses[&status] = problem(description);
        }
    }
    let text = || json!({"schema": {"type": "string"}});
    for (status, header) in [
        ("401", "WWW-Authenticate"),
        ("403", "WWW-Authenticate"),
        ("415", "Accept-Encoding"),
        ("416", "Content-Range"),
        ("206", "Content-Range"),
        ("201", "Location"),
        ("503", "Retry-After"),
    ] {
        if let Some(response) = operation["responses"].get_mut(status) {
            response["headers"][header] = text();
        }
    }
}

/// What answers have entity-tags, and which changes look at them: those that list a 412.
fn add_conditions(operation: &mut Value, reads: bool) {
    let of = |operation: &Value, status: &str| operation["responses"].get(status).is_some();
    let is_tagged = ["application/json", "application/octet-stream"]
        .iter()
        .any(|kind| operation["responses"]["200"]["content"].get(kind).is_some());
    let mut headers = Vec::new();
    if reads {
        // `*` holds of what has no tag, too.
        operation["responses"]["304"] = json!({"description": "The client has it"});
        operation["responses"]["412"] = problem("It is not what If-Match expects");
    }
    if reads && is_tagged {
        for status in ["200", "206", "304"] {
            if let Some(response) = operation["responses"].get_mut(status) {
                response["headers"]["ETag"] = json!({"schema": {"type": "string"}});
            }
        }
    }
    if of(operation, "412") {
        headers.extend([("If-Match", true), ("If-None-Match", true)]);
    }
    if of(operation, "206") {
        headers.extend([("Range", false), ("If-Range", false)]);
    }
    if headers.is_empty() {
        return;
    }
    let mut parameters = operation["parameters"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    for (name, is_list) in headers {
        let mut schema = json!({"type": "string"});
        if is_list {
            let tag = "(W/)?\"[!#-~]*\"";
            schema["pattern"] = json!(format!("^(\\*|{tag}(, ?{tag})*)?$"));
        }
        parameters.push(json!({"name": name, "in": "header", "required": false, "schema": schema}));
    }
    operation["parameters"] = Value::Array(parameters);
}

fn problem(description: &str) -> Value {
    json!({"description": description, "content": {"application/problem+json": {
        "schema": {"$ref": "#/components/schemas/ProblemBody"},
    }}})
}

/// Refusals that routes list have the media type of problems (RFC 9457), too.
fn responses_are_problems(operation: &mut Value) {
    for (_, response) in operation["responses"].as_object_mut().into_iter().flatten() {
        let content = &mut response["content"];
        let is_problem =
            content["application/json"]["schema"]["$ref"] == "#/components/schemas/ProblemBody";
        if is_problem && let Some(content) = content.as_object_mut() {
            let problem = content.remove("application/json").unwrap_or_default();
            content.insert("application/problem+json".into(), problem);
        }
        if response["content"].is_null()
            && let Some(response) = response.as_object_mut()
        {
            response.remove("content");
        }
    }
}
