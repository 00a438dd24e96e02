//! Library versions.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use pool_core::name::{ImageRef, LibraryRef, Named};
use pool_store::Snapshot;
use pool_store::manifest::LibraryRecord;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::responses::{Conditional, Made, NoLibrary, StoredBytes};
use super::whole_file::WholeFile;
use super::{LibraryParams, LibraryPath, content};
use crate::announce;
use crate::conditions::{Conditions, with_revision};
use crate::problem::{Problem, ProblemBody, Result};
use crate::query::Filter;
use crate::service::Service;
use crate::types::{Library, PushSummary};

pub(super) fn routes() -> OpenApiRouter<Service> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get, put, remove))
        .routes(routes!(content))
        .routes(routes!(users))
        .routes(routes!(pin, unpin))
}

/// List library versions.
#[utoipa::path(
    get, path = "/v1/libs", tag = "libraries", params(Filter),
    responses((status = 200, description = "All versions, in order of name", body = Vec<Library>))
)]
async fn list(State(service): State<Service>, filter: Filter) -> Result<Json<Vec<Library>>> {
    let libraries = service
        .with_store(move |store| {
            let store = store.snapshot();
            store
                .libraries()?
                .into_iter()
                .filter(|(library, _)| library.to_string().starts_with(&filter.prefix))
                .map(|(library, record)| summary(&store, library, &record))
                .collect()
        })
        .await?;
    Ok(Json(libraries))
}

/// One library version.
#[utoipa::path(
    get, path = "/v1/libs/{name}/{version}", tag = "libraries",
    params(LibraryParams),
    responses(
        (status = 200, description = "The library version", body = Library),
        NoLibrary,
    )
)]
async fn get(
    State(service): State<Service>,
    LibraryPath(library): LibraryPath,
) -> Result<Response> {
    let (revision, library) = service
        .with_store(move |store| {
            let store = store.snapshot();
            let name = Named::Library(library.clone());
            let revision = store.revision(&name)?;
            let revision = revision.ok_or_else(|| Problem::not_found(name))?;
            Ok((revision, find(&store, library)?))
        })
        .await?;
    Ok(with_revision(revision, Json(library)))
}

/// Push a library's content whole. A version never changes.
#[utoipa::path(
    put, path = "/v1/libs/{name}/{version}", tag = "libraries",
    params(LibraryParams),
    request_body(content_type = "application/octet-stream", description = "The content"),
    responses(
        (status = 200, description = "The pool had that version with that content", body = PushSummary),
        (status = 201, description = "Stored and named", body = PushSummary),
        (status = 409, description = "The version has other content", body = ProblemBody),
        Conditional,
        (status = 422, description = "The content is empty", body = ProblemBody),
    )
)]
async fn put(LibraryPath(library): LibraryPath, file: WholeFile) -> Result<Made<PushSummary>> {
    let name = Named::Library(library.clone());
    file.take_in(name, move |content, store| {
        if content.is_empty() {
            let what = format!("the content of lib/{library} is empty");
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            return Err(Problem::new(status, "empty", what).hint("check the file you sent"));
        }
        store(&announce::library(content, library))
    })
    .await
}

/// A library's content. Ranges are served.
#[utoipa::path(
    get,
    path = "/v1/libs/{name}/{version}/content",
    tag = "libraries",
    params(LibraryParams),
    responses(StoredBytes, NoLibrary,)
)]
async fn content(
    State(service): State<Service>,
    LibraryPath(library): LibraryPath,
    headers: HeaderMap,
) -> Result<Response> {
    content::named(&service, &headers, move |store| {
        let record = store.library(&library)?;
        let record = record.ok_or_else(|| Problem::not_found(format!("lib/{library}")))?;
        Ok(record.object)
    })
    .await
}

/// Which images use a library version.
#[utoipa::path(
    get, path = "/v1/libs/{name}/{version}/users", tag = "libraries",
    params(LibraryParams),
    responses(
        (status = 200, description = "Tags, as NAME:TAG", body = Vec<String>),
        NoLibrary,
    )
)]
async fn users(
    State(service): State<Service>,
    LibraryPath(library): LibraryPath,
) -> Result<Json<Vec<ImageRef>>> {
    let found = service.with_store(move |store| find(&store.snapshot(), library));
    Ok(Json(found.await?.users))
}

/// Keep a library version whether used or not. Conditions are about the library version.
#[utoipa::path(
    put, path = "/v1/libs/{name}/{version}/pin", tag = "libraries",
    params(LibraryParams),
    responses(
        (status = 200, description = "The library version", body = Library),
        NoLibrary,
        Conditional,
    )
)]
async fn pin(
    State(service): State<Service>,
    LibraryPath(library): LibraryPath,
    conditions: Conditions,
) -> Result<Json<Library>> {
    set_pin(&service, library, &conditions, true).await
}

/// Let a library version go once nothing uses it. Conditions are about the library version.
#[utoipa::path(
    delete, path = "/v1/libs/{name}/{version}/pin", tag = "libraries",
    params(LibraryParams),
    responses(
        (status = 200, description = "The library version", body = Library),
        NoLibrary,
        Conditional,
    )
)]
async fn unpin(
    State(service): State<Service>,
    LibraryPath(library): LibraryPath,
    conditions: Conditions,
) -> Result<Json<Library>> {
    set_pin(&service, library, &conditions, false).await
}

async fn set_pin(
    service: &Service,
    library: LibraryRef,
    conditions: &Conditions,
    pinned: bool,
) -> Result<Json<Library>> {
    let precondition = conditions.precondition();
    let changed = service.with_store(move |store| {
        let record = store.when(&precondition).pin_library(&library, pinned)?;
        summary(&store.snapshot(), library, &record)
    });
    changed.await.map(Json)
}

/// Remove a library version that nothing uses.
#[utoipa::path(
    delete, path = "/v1/libs/{name}/{version}", tag = "libraries",
    params(LibraryParams),
    responses(
        (status = 204, description = "Removed"),
        NoLibrary,
        (status = 409, description = "It is pinned, or images use it", body = ProblemBody),
        Conditional,
    )
)]
async fn remove(
    State(service): State<Service>,
    LibraryPath(library): LibraryPath,
    conditions: Conditions,
) -> Result<StatusCode> {
    let precondition = conditions.precondition();
    service
        .with_store(move |store| Ok(store.when(&precondition).delete_library(&library)?))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn find(store: &Snapshot<'_>, library: LibraryRef) -> Result<Library> {
    let record = store
        .library(&library)?
        .ok_or_else(|| Problem::not_found(format!("lib/{library}")))?;
    summary(store, library, &record)
}

fn summary(store: &Snapshot<'_>, library: LibraryRef, record: &LibraryRecord) -> Result<Library> {
    let users = store.library_users(&library)?;
    let object = store.object(record.object)?;
    Ok(Library {
        name: library.name,
        version: library.version,
        object: record.object,
        length: object.map_or(0, |object| object.map.length),
        created_at: record.created_at,
        pinned: record.pinned,
        unused_since: record.unused_since,
        users,
    })
}
