//! The description of this API for programs (OpenAPI 3.1).
//!
//! Each route's part of it is written beside the route, and a route is registered with its part
//! and in no other way, so the document cannot list what is not served, nor leave anything out.

use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};

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
    security((), ("token" = [])),
    modifiers(&Security),
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
pub struct Document;

struct Security;

impl utoipa::Modify for Security {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("Asked for as soon as the service has a token."))
            .build();
        if let Some(components) = &mut document.components {
            components.add_security_scheme("token", SecurityScheme::Http(bearer));
        }
    }
}

/// The whole document.
pub fn document() -> utoipa::openapi::OpenApi {
    crate::routes::documented().into_openapi()
}

/// Schemas of types that other crates own.
pub(crate) mod schemas {
    use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type};

    fn text() -> ObjectBuilder {
        ObjectBuilder::new().schema_type(SchemaType::Type(Type::String))
    }

    pub(crate) fn digest() -> Schema {
        text()
            .description(Some("BLAKE3-256 of the content"))
            .pattern(Some("^[0-9a-f]{64}$"))
            .into()
    }

    pub(crate) fn name() -> Schema {
        text()
            .pattern(Some("^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$"))
            .into()
    }

    pub(crate) fn pages() -> Schema {
        text()
            .description(Some("Base64 of page digests, 32 bytes each"))
            .content_encoding("base64")
            .into()
    }

    pub(crate) fn scope() -> Schema {
        text().enum_values(Some(["read", "write", "admin"])).into()
    }

    pub(crate) fn placement() -> Schema {
        let kind =
            |word: &str| ObjectBuilder::new().property("kind", text().enum_values(Some([word])));
        let phase = ObjectBuilder::new()
            .schema_type(SchemaType::Type(Type::Integer))
            .description(Some("Position of the first page in its 2 MiB window"))
            .minimum(Some(0))
            .maximum(Some(511));
        OneOfBuilder::new()
            .item(kind("sparse").required("kind"))
            .item(
                kind("windows")
                    .required("kind")
                    .property("phase", phase)
                    .required("phase"),
            )
            .into()
    }
}
