//! Keywords of `-z`.

use pool_core::page::PAGE_SIZE;
use pool_core::registry::APPLICATION_START;

use super::request::LinkRequest;
use super::values::number;
use super::vocabulary::{PROPERTIES, WITHOUT_EFFECT};
use crate::link::error::LinkError;

/// `-z KEYWORD`. What ld does not know it warns of.
pub(super) fn keyword(value: &str, request: &mut LinkRequest) -> Result<(), LinkError> {
    let (name, of) = value.split_once('=').unwrap_or((value, ""));
    match name {
        "execstack" => request.executable_stack = Some(true),
        "noexecstack" => request.executable_stack = Some(false),
        "relro" => request.protects = true,
        "norelro" => request.protects = false,
        "start-stop-gc" => request.collects_sets = true,
        "nostart-stop-gc" => request.collects_sets = false,
        "muldefs" => request.allow_multiple_definition = true,
        "defs" => request.unresolved.ignored = false,
        "undefs" => request.unresolved.ignored = true,
        "max-page-size" => request.max_page_size = max_page_size(value, of)?,
        "stack-size" => request.stack_size = number(&format!("-z {value}"), of)?,
        name if WITHOUT_EFFECT.contains(&name) => {}
        name => match PROPERTIES.iter().find(|(known, _)| *known == name) {
            Some((_, property)) => request.properties.push(*property),
            None => request.warnings.push(format!("-z {value} ignored")),
        },
    }
    Ok(())
}

/// The application begins at a multiple of the largest.
fn max_page_size(option: &str, text: &str) -> Result<u64, LinkError> {
    let option = format!("-z {option}");
    let size = number(&option, text)?;
    let fits = size.is_power_of_two() && (PAGE_SIZE..=APPLICATION_START.0).contains(&size);
    let wanted = format!(
        "wants a power of two from {PAGE_SIZE} to {}",
        APPLICATION_START.0
    );
    fits.then_some(size)
        .ok_or_else(|| LinkError::option(option, wanted))
}
