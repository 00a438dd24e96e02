//! What a command line asks for.

use std::path::PathBuf;

use pool_core::name::LibraryRef;
use pool_core::page::PAGE_SIZE;

use super::expression::Definition;
use crate::layout::LayoutKind;

/// Most undefined references that are listed, if nothing is said.
const MOST_ERRORS: usize = 20;

/// What to link.
#[allow(clippy::struct_excessive_bools)] // Each is an option of its own on a command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkRequest {
    /// Where the caller puts the executable (`-o`; `a.out` otherwise).
    pub output: PathBuf,
    /// Symbol to start at (`-e`; `_start` otherwise).
    pub entry: String,
    /// Symbols to take as needed (`-u`).
    pub undefined: Vec<String>,
    /// Symbols to take as needed, and that must be defined in the end (`--require-defined`).
    pub required: Vec<String>,
    /// Symbols that are called by other names (`--wrap`): undefined references to one mean `__wrap_SYMBOL`, and those to
    /// `__real_SYMBOL` mean it.
    pub wrapped: Vec<String>,
    /// Symbols that are defined here (`--defsym`), in order; where, say marks among the inputs.
    pub definitions: Vec<Definition>,
    /// What becomes of references that nothing defines.
    pub unresolved: Undefined,
    /// How many of them are listed; all without a number (`--error-limit`).
    pub error_limit: Option<usize>,
    /// Bytes of stack that the program asks for; 0 is what there is (`-z stack-size`).
    pub stack_size: u64,
    /// What is constant after the start of the application's data is write-protected then (`-z relro`, as at first, and
    /// `-z norelro`).
    pub protects: bool,
    /// What the application's parts begin at multiples of, in memory and (but for that) in the file (`-z max-page-size`).
    pub max_page_size: u64,
    /// Patterns of sections of the application that keep their name in the output; those of one name lie together (`--unique`).
    pub unique: Vec<String>,
    /// Objects, archives and linker scripts, in command-line order.
    pub inputs: Vec<InputFile>,
    /// Folders for `-l`, in order (`-L`).
    pub search: Vec<PathBuf>,
    /// After these, the folders in which systems keep libraries (not with `-nostdlib`).
    pub usual_folders: bool,
    /// Names and versions given to archives and objects (`--pool-library`).
    pub libraries: Vec<LibraryAlias>,
    /// Archives are libraries wherever they lie (`--pool-libraries=all`).
    pub own_are_libraries: bool,
    /// How the program and its libraries are laid out (`--pool-layout`).
    pub layout: LayoutKind,
    /// The application reaches libraries through its offset table, so that each of them can start elsewhere
    /// (`--pool-aslr=library`).
    pub slides_libraries: bool,
    /// What to leave out of the symbol table (`-s`, `-S`).
    pub strip: Strip,
    /// The build id to write (`--build-id`).
    pub build_id: BuildId,
    /// Write `.eh_frame_hdr` even if nothing that is linked unwinds the stack
    /// (`--eh-frame-hdr`).
    pub unwind_table: bool,
    /// The stack is executable, or not, whatever the objects ask for (`-z execstack`, `-z noexecstack`).
    pub executable_stack: Option<bool>,
    /// Leave out sections of the application that nothing needs (`--gc-sections`).
    pub collects: bool,
    /// Those too that are walked by `__start_NAME` and that nothing else needs (`-z start-stop-gc`).
    pub collects_sets: bool,
    /// Say which (`--print-gc-sections`).
    pub tells_collected: bool,
    /// Take the first of several definitions (`-z muldefs`).
    pub allow_multiple_definition: bool,
    /// The compilers' plugins, which compile objects of intermediate code (`-plugin`, `-plugin-opt`).
    pub plugins: Vec<Plugin>,
    /// Messages call symbols as their source does (`--demangle`, as at first, and `--no-demangle`).
    pub demangles: bool,
    /// Warn of tentative definitions that meet others (`--warn-common`).
    pub warns_common: bool,
    /// Warnings end the link (`--fatal-warnings`).
    pub fatal_warnings: bool,
    /// Where the caller puts the link map (`-Map`).
    pub map: Option<PathBuf>,
    /// The caller prints the link map (`-M`).
    pub prints_map: bool,
    /// Print which files are linked (`--trace`).
    pub trace: bool,
    /// What to leave out of the symbols that stay (`-x`, `-X`).
    pub discard: Discard,
    /// How debugging sections are compressed (`--compress-debug-sections`).
    pub compress: Option<Compression>,
    /// Bits of properties that the program is said to have, beside those of its objects (`-z ibt`, `-z x86-64-v3`).
    pub properties: Vec<(u32, u32)>,
    /// Where absolute paths in linker scripts begin (`--sysroot`).
    pub sysroot: Option<PathBuf>,
    /// Where the caller writes which files were read, as a rule for make (`--dependency-file`).
    pub dependency_file: Option<PathBuf>,
    /// What is asked about the linker; there may be no inputs then.
    pub question: Option<Question>,
    /// What the command line asks for and will not get.
    pub warnings: Vec<String>,
}

impl LinkRequest {
    /// A link map is asked for.
    #[must_use]
    pub fn wants_map(&self) -> bool {
        self.map.is_some() || self.prints_map
    }

    /// What nothing needs is left out.
    #[must_use]
    pub fn collects(&self) -> bool {
        self.collects || self.layout == LayoutKind::Dce
    }
}

impl Default for LinkRequest {
    fn default() -> Self {
        Self {
            output: PathBuf::from("a.out"),
            entry: "_start".to_owned(),
            undefined: Vec::new(),
            required: Vec::new(),
            wrapped: Vec::new(),
            definitions: Vec::new(),
            unresolved: Undefined::default(),
            error_limit: Some(MOST_ERRORS),
            stack_size: 0,
            protects: true,
            max_page_size: PAGE_SIZE,
            unique: Vec::new(),
            inputs: Vec::new(),
            search: Vec::new(),
            usual_folders: true,
            libraries: Vec::new(),
            own_are_libraries: false,
            layout: LayoutKind::default(),
            slides_libraries: false,
            strip: Strip::Nothing,
            build_id: BuildId::None,
            unwind_table: false,
            executable_stack: None,
            collects: false,
            collects_sets: false,
            tells_collected: false,
            allow_multiple_definition: false,
            plugins: Vec::new(),
            demangles: true,
            warns_common: false,
            fatal_warnings: false,
            map: None,
            prints_map: false,
            trace: false,
            discard: Discard::default(),
            compress: None,
            properties: Vec::new(),
            sysroot: None,
            dependency_file: None,
            question: None,
            warnings: Vec::new(),
        }
    }
}

/// A file to link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputFile {
    /// A path.
    Path(PathBuf),
    /// A linker script that adds tables (`-T`): beside the current folder it is looked for in the search folders.
    Script(PathBuf),
    /// `-lNAME`: `libNAME.so` or `libNAME.a` in the search folders (`-l:FILE`: that file).
    Library(String),
    /// What the files that follow are to the link.
    Mark(Mark),
}

/// A compiler's plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    /// The shared library.
    pub path: PathBuf,
    /// What it is told.
    pub options: Vec<String>,
}

/// What changes how the files behind it on the command line are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// From here on archives are taken whole (`--whole-archive`), or only their members that are needed.
    Whole(bool),
    /// From here on `-lNAME` may be a shared library (`-Bdynamic`, as at first), or not (`-Bstatic`, `-static`).
    Dynamic(bool),
    /// Archives up to the end of the group are searched together (`--start-group`).
    GroupStart,
    /// A symbol is defined, the one of this place in [`LinkRequest::definitions`].
    Define(usize),
    /// The end of the group (`--end-group`).
    GroupEnd,
    /// What holds here is remembered (`--push-state`).
    Push,
    /// What was remembered last holds again (`--pop-state`).
    Pop,
}

/// What becomes of references to what nothing defines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Undefined {
    /// They are to zero (`--unresolved-symbols`).
    pub ignored: bool,
    /// They are to zero, with a warning (`--warn-unresolved-symbols`).
    pub warned: bool,
    /// References to these are to zero (`--ignore-unresolved-symbol`).
    pub names: Vec<String>,
}

impl Undefined {
    /// A reference to `name` is to zero.
    #[must_use]
    pub fn is_zero(&self, name: &str) -> bool {
        self.ignored || self.warned || self.names.iter().any(|known| known == name)
    }
}

/// What is asked about the linker itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Its version, before it links (`-v`).
    Version,
    /// That, and for which machines it links (`-V`).
    Machines,
    /// Its version, and nothing is linked (`--version`).
    VersionAlone,
}

/// A name and version for an archive, or for an object that is a library: `--pool-library FILE=NAME@VERSION`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LibraryAlias {
    /// The archive or object: its path, its file name, or `-lNAME` (`lNAME`).
    pub file: String,
    /// What it is to be called.
    pub library: LibraryRef,
}

/// What to leave out of the executable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strip {
    /// Nothing.
    #[default]
    Nothing,
    /// Debugging sections.
    Debugging,
    /// Debugging sections and the symbol table.
    Everything,
}

/// Which local symbols to leave out of the symbol table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Discard {
    /// Those of compilers (`.L`) for strings and constants that were merged.
    #[default]
    Merged,
    /// None.
    Nothing,
    /// All of compilers.
    Temporary,
    /// All.
    Locals,
}

/// How sections are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// DEFLATE.
    Zlib,
    /// Zstandard.
    Zstd,
}

/// The note by which debuggers recognise a build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BuildId {
    /// No note.
    #[default]
    None,
    /// This many bytes of the digest of the executable.
    Digest(usize),
    /// These bytes.
    Given(Vec<u8>),
}
