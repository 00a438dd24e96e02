//! Why a link failed, in terms of the command line and the source.

use std::fmt::Write as _;
use std::path::PathBuf;

use pool_core::name::{LibraryRef, NameError};
use pool_core::slide::SlideError;
use thiserror::Error;

use super::demangle;
use super::registry::RegistryError;

/// Why nothing was linked.
#[derive(Debug, Error)]
pub enum LinkError {
    /// An option that is wrong, or that asks for something other than a static executable.
    #[error("{option}: {problem}")]
    Option {
        /// As written on the command line.
        option: String,
        /// What is wrong with it and what to do instead.
        problem: String,
    },
    /// A link that makes no static executable, which another linker can do.
    #[error("{what}: {problem}")]
    NotStatic {
        /// The option, or the file, that says so.
        what: String,
        /// What is made with it, and what to do for a static executable.
        problem: String,
    },
    /// Nothing to link.
    #[error("no input files: name the objects (.o) and archives (.a, -lNAME) to link")]
    NoInput,
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// From the system.
        source: std::io::Error,
    },
    /// `-lNAME` matches no archive.
    #[error(
        "cannot find lib{name}.a for -l{name} in {searched}: install the static library or add -L \
         with its folder (a static executable uses no shared ones)"
    )]
    NoLibrary {
        /// What follows `-l`.
        name: String,
        /// The folders searched.
        searched: String,
    },
    /// A file that is damaged or not what it should be.
    #[error("{file}: {problem}")]
    Input {
        /// The file, with the archive member in parentheses.
        file: String,
        /// What is wrong with it and what to do.
        problem: String,
    },
    /// Two objects define one symbol.
    #[error("{symbol} is defined in {first} and in {second}: remove or rename one")]
    Duplicate {
        /// The symbol.
        symbol: String,
        /// The definition taken first.
        first: String,
        /// The other.
        second: String,
    },
    /// Of copies of a section group the one that counts defines less than another.
    #[error(
        "{symbol}, which {object} defines in a section group, is not in the copy of that group that \
         counts: compile both with the same options"
    )]
    Copies {
        /// The symbol.
        symbol: String,
        /// The object.
        object: String,
    },
    /// A reference to what is not in the program, since another copy of it is.
    #[error(
        "{place} refers to {symbol}, which is local to a copy of a section group that does not count: \
         give it a name of its own outside of the group"
    )]
    Discarded {
        /// File, section and offset.
        place: String,
        /// What is referred to.
        symbol: String,
    },
    /// The program walks its data, which are not in one piece.
    #[error(
        "{place} refers to {symbol}, an end of the program's data in one piece, but libraries have theirs \
         at addresses of their own: take the sections apart by dl_iterate_phdr, or link with the system's ld"
    )]
    EndOfData {
        /// File, section and offset.
        place: String,
        /// The symbol.
        symbol: String,
    },
    /// References that nothing defines.
    #[error(
        "undefined symbols:\n{}name the object or the library (-l) that defines them",
        undefined(references, *more)
    )]
    Undefined {
        /// File, section and offset of one reference to each, and the symbol.
        references: Vec<(String, String)>,
        /// How many more there are (`--error-limit`).
        more: usize,
    },
    /// There are warnings, and they are said to be errors.
    #[error("warnings, which --fatal-warnings makes errors:\n{}", .0.join("\n"))]
    FatalWarnings(Vec<String>),
    /// A value does not fit into the field that refers to it.
    #[error(
        "{place}: the value {value:#x} of {symbol} does not fit the relocation {relocation}: \
         compile with the small code model (-mcmodel=small), which reaches all of the low 2 GiB"
    )]
    Overflow {
        /// File, section and offset.
        place: String,
        /// What is referred to.
        symbol: String,
        /// Name of the relocation.
        relocation: String,
        /// The value that does not fit.
        value: i128,
    },
    /// A relocation that cannot be carried out.
    #[error("{place}: {problem}")]
    Relocation {
        /// File, section and offset.
        place: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A name for a library that is none.
    #[error(
        "{path} has no usable library name: {source}; give one with --pool-library \
         {path}=NAME@VERSION"
    )]
    LibraryName {
        /// The archive.
        path: String,
        /// Why not.
        source: NameError,
    },
    /// Two archives with one library name.
    #[error(
        "{first} and {second} are both the library {name}: an image holds one version of a \
         library; drop one, or name one differently with --pool-library FILE=NAME@VERSION"
    )]
    TwoVersions {
        /// The library.
        name: String,
        /// An archive.
        first: String,
        /// The other.
        second: String,
    },
    /// The registry gave no addresses.
    #[error("no addresses for the libraries of this link: {0}")]
    Registry(#[from] RegistryError),
    /// The registry answered with something that does not fit the request.
    #[error("the registry's answer for {library} is not usable: {problem}")]
    BadReservation {
        /// The library.
        library: LibraryRef,
        /// What is wrong.
        problem: String,
    },
    /// The application does not fit below the libraries.
    #[error(
        "the application's text and data end at {end:#x}, past {limit:#x} where libraries begin: \
         make parts of it a library (an archive) or allocate large arrays at run time"
    )]
    ApplicationTooLarge {
        /// Its end.
        end: u64,
        /// The end of its room.
        limit: u64,
    },
    /// What holds addresses contradicts itself.
    #[error("recording what holds addresses: {0}: please report this")]
    Slide(SlideError),
}

impl LinkError {
    /// With symbols called as in their source.
    pub(super) fn demangled(mut self) -> Self {
        match &mut self {
            Self::Duplicate { symbol, .. }
            | Self::Copies { symbol, .. }
            | Self::Discarded { symbol, .. }
            | Self::Overflow { symbol, .. } => *symbol = demangle::shown(symbol),
            Self::Undefined { references, .. } => {
                for (_, symbol) in references {
                    *symbol = demangle::shown(symbol);
                }
            }
            _ => {}
        }
        self
    }

    /// A fault of an input file.
    pub(super) fn input(file: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Input {
            file: file.into(),
            problem: problem.into(),
        }
    }

    /// Not ours to link.
    pub(super) fn not_static(what: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::NotStatic {
            what: what.into(),
            problem: problem.into(),
        }
    }

    /// A fault of an option.
    pub(super) fn option(option: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Option {
            option: option.into(),
            problem: problem.into(),
        }
    }
}

/// Undefined references, a line each.
fn undefined(references: &[(String, String)], more: usize) -> String {
    let mut lines = String::new();
    for (place, symbol) in references {
        let _ = writeln!(lines, "  {place}: undefined reference to {symbol}");
    }
    if more > 0 {
        let _ = writeln!(lines, "  and {more} more");
    }
    lines
}
