//! What a symbol can mean to its unit: [`super::symbols`] says what each does.

use super::unit::SymbolId;

/// What a reference refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Target<'a> {
    /// A symbol with a place.
    Defined(SymbolId),
    /// A local symbol in a section that takes no part.
    Dropped,
    /// Settled by the image.
    Import(&'a str),
    /// The unit's own offset table (`_GLOBAL_OFFSET_TABLE_`).
    OffsetTable,
    /// The thread pointer (`_TLS_MODULE_BASE_`), from which a static executable counts its thread-local variables.
    ThreadPointer,
    /// The ELF header, at the same address in every image (`__ehdr_start`).
    Header,
    /// The first byte of the unit's sections of this name (`__start_NAME`).
    SetStart(&'a str),
    /// The byte after the last.
    SetEnd(&'a str),
}

/// The meaning of all symbols of a unit, by object and symbol.
pub(super) type UnitTargets<'a> = Vec<Vec<Target<'a>>>;
