//! `pool link`: a static linker (x86-64) that puts libraries at registered addresses.
//!
//! First the inputs are resolved as GNU ld does it (`resolve`): which members of archives are in the program, and
//! what each name means there. That says what the program is. Then, apart from it, pages are shared.
//!
//! An ordinary static link lays the members of archives out anew for every program, so no two programs have the same
//! page of the same library. Here an archive is one library, laid out whole, at an address that its version keeps for
//! ever; the application is linked after it. The shared pages of a library version (code and constants) are a function of
//!
//! - its members,
//! - its reservation, and
//! - if it keeps an earlier version's places, the registry's record of where everything is in it ([`Registry::known`], `places`)
//!
//! and of nothing else, so that they are the same bytes in every image, whatever other libraries it has.
//! What a library refers to outside of itself it reaches through slots in its private pages, which the image fills (`plan`,
//! `slots`). What depends on the image otherwise
//! is kept out of the shared pages or is the image's own: arrays of constructors and others that are walked from
//! end to end, the thread-local template, the unwinder's table. What programs are known to replace (the allocator,
//! weak functions) is found through slots, too. And where a program means something else by what a library has and refers
//! to, say because it has a variable of its own of that name, the image has *pages of its own* among the
//! library's: `relocate` finds them, the layout lists them, and all others stay shared.
//!
//! What the command line changes of that (`--wrap`, `--defsym`, `--gc-sections`) is part of what the program is, and makes
//! no other library of one: where a wrapped function is called directly, the image has a page of its own. Of sections
//! that nothing needs the application's go, and those that are walked in a set; a library's pages stay whole.
//!
//! The way through: `args` and `files` (what to link), `dynamic` (whether it is for us), `lto` (what is to be compiled
//! first), `object`, `unit` and `set` (what there is), `asked`, `resolve`, `own`, `definitions` and `collect` (what the
//! program is), `library` and `symbols` (what refers to what in a library), `plan` and `places` (what goes where, without
//! addresses), [`registry`] and `reserve` (addresses), `image`, `checks`, `relocate` and `site` (the bytes), `moves` (what
//! of them holds addresses), `output` (the file), `report` (what is said of it).
//!
//! An archive of the system, or one that a person names, is a library, the C library and the compiler's
//! support libraries too; start files, objects and what is needed of other archives are the application (`own`). A library of
//! which no member is in the program is not in the image.
//!
//! A link that succeeds behaves as ld's does, or it is refused by name. What a program can tell nevertheless:
//!
//! - members that nobody needs lie in a library's pages; they are not run, and what they lack ends the program if it
//!   is ever called;
//! - of a function that C++ has one of in a program (an inline one) libraries call their own copies, unless it uses variables of
//!   the object that it is in;
//! - of equal constants (strings of one text) each library has its own, at an address of its own;
//! - `etext` is the end of the application's code; that of libraries lies elsewhere;
//! - sections that are named as a compiler names those of single variables (`.data.NAME`) lie with their library's
//!   or the application's data: who walks them from one to another should give them a name that is none of these;
//! - what is constant from the start is on pages that nobody can ever write; of what is so after the start (`-z relro`) the
//!   application's is write-protected then, while libraries' offset tables and what they name `.data.rel.ro` by hand stay
//!   writable: start-up code knows of one such range, and each library has its data at addresses of its own.

mod addresses;
mod archive;
mod args;
mod asked;
mod attached;
mod borrowed;
mod checks;
mod collect;
mod compressed;
mod debug_frame;
mod definitions;
mod demangle;
mod detour_frames;
mod dynamic;
mod eh_frame;
mod error;
mod files;
mod hash;
mod image;
mod instructions;
mod intermediate;
mod library;
mod lto;
mod map;
mod meaning;
mod merge;
mod moves;
mod object;
mod output;
mod own;
mod patch;
mod pattern;
mod places;
mod plan;
mod properties;
mod references;
pub mod registry;
mod relocate;
mod report;
mod reserve;
mod resolve;
mod script;
mod search;
mod sections;
mod set;
mod site;
mod slots;
mod source;
mod start;
mod symbols;
mod symtab;
mod tables;
mod target;
mod unit;

pub use args::{
    BuildId, Compression, Definition, Discard, Expression, InputFile, LibraryAlias, LinkRequest,
    Mark, Operator, Plugin, Question, Strip, Undefined, expand, parse_args,
};
pub use dynamic::refuse_shared_libraries;
pub use error::LinkError;
pub use registry::{FileRegistry, Registry, RegistryError};
pub use report::LibraryPages;

use crate::layout::LinkLayout;
use addresses::Import;
use asked::{asked, wrappers};
use image::Image;
use plan::Plan;
use resolve::Resolution;
use set::LinkSet;
use target::UnitTargets;
use unit::Unit;

/// An executable.
#[derive(Clone, Debug)]
pub struct Linked {
    /// The ELF file.
    pub elf: Vec<u8>,
    /// Where its libraries are; also in the file's section [`crate::layout::LAYOUT_SECTION`].
    pub layout: LinkLayout,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// What the user asked to be told.
    pub notes: Vec<String>,
    /// What each library of the image takes.
    pub libraries: Vec<LibraryPages>,
    /// Where each section went, if a map was asked for ([`LinkRequest::map`], [`LinkRequest::prints_map`]).
    pub map: Option<String>,
    /// The files that were read, as a rule for make, if asked for ([`LinkRequest::dependency_file`]).
    pub dependencies: Option<String>,
    /// The files that are in it, a line each, if asked for ([`LinkRequest::trace`]).
    pub trace: Option<String>,
}

/// Links what `request` names, with addresses from `registry`.
pub fn link(request: &LinkRequest, registry: &mut dyn Registry) -> Result<Linked, LinkError> {
    let linked = link_as_named(request, registry);
    linked.map_err(|error| {
        if request.demangles {
            error.demangled()
        } else {
            error
        }
    })
}

fn link_as_named(request: &LinkRequest, registry: &mut dyn Registry) -> Result<Linked, LinkError> {
    let wrappers = wrappers(request);
    let mut inputs = files::read(request)?;
    if inputs.files.is_empty() {
        return Err(LinkError::NoInput);
    }
    let about_compiling = lto::compile(request, &mut inputs)?;
    let mut set = LinkSet::read(request, &inputs)?;
    let beforehand = std::mem::take(&mut set.beforehand);
    let needs = asked(request, &wrappers, &beforehand);
    let mut program = Resolution::new(&set.units, &inputs.steps, &set.became, &needs)?;
    let absorbed = set.absorb(request, &program, &beforehand)?;
    if let Some((events, beforehand)) = &absorbed {
        let needs = asked(request, &wrappers, beforehand);
        program = Resolution::again(&set.units, events, &needs)?;
    }
    program.refuse_mismatch(&set.units)?;
    program.settle(&mut set.units, request.allow_multiple_definition)?;
    definitions::settle(request, &mut set.units, set.definitions, &mut program)?;
    let collected = collect::collect(request, &inputs.tables, &mut set.units, &mut program)?;
    let targets: Vec<UnitTargets<'_>> = (0..set.units.len())
        .map(|unit| symbols::targets(&set.units, &program, unit))
        .collect();
    set.units[0].stays = references::stays(&set.units, &targets[0]);

    let units: Vec<&Unit<'_>> = set.units.iter().collect();
    let plan = |own: usize| Plan::new(&units, own, &targets[own], request);
    let mut plans: Vec<Plan<'_>> = (0..units.len()).map(plan).collect::<Result<_, _>>()?;
    let reservations = set.reserve(&mut plans, &program, registry, &plan)?;
    let image = Image::new(
        request,
        &inputs.tables,
        &set.units,
        &targets,
        &plans,
        &program,
        &reservations,
    )?;
    let mut warnings = about_compiling;
    warnings.extend_from_slice(program.commons());
    warnings.extend(checks::refuse_undefined(&image, request)?);
    checks::refuse_script_symbols(&image)?;
    checks::refuse_many_sections(&image)?;
    checks::refuse_writable_code(&image)?;
    let mut contents = relocate::fill(&image)?;
    if request.strip == Strip::Nothing {
        debug_frame::fill(&image, &mut contents);
    }
    let (entry, about_entry) = entry_address(&image, &request.entry);
    warnings.extend(about_entry);

    let warnings = set.warnings(request, &image, warnings);
    if request.fatal_warnings && !warnings.is_empty() {
        return Err(LinkError::FatalWarnings(warnings));
    }

    let layout = set.layout(request, &image, &contents, &reservations);
    let names = set.names();
    let elf = output::Parts {
        names: &names,
        entry,
        layout: &layout,
        reservations: &reservations,
    };
    Ok(Linked {
        elf: output::write(&image, &contents, request, &elf)?,
        libraries: set.pages(&image, &contents),
        trace: request.trace.then(|| set.trace(&image)),
        map: request
            .wants_map()
            .then(|| map::text(&image, &contents, &names, &reservations)),
        dependencies: request
            .dependency_file
            .is_some()
            .then(|| map::rule(&request.output, &inputs.paths)),
        warnings,
        notes: if request.tells_collected {
            collected
        } else {
            Vec::new()
        },
        layout,
    })
}

/// Where the program starts, and what is to be said of it: without the symbol, at the address that its name is, or
/// else where the application's code begins (binutils, `lang_end`).
fn entry_address(image: &Image<'_, '_>, name: &str) -> (u64, Option<String>) {
    let address = match image.import(name) {
        Some(Import::Symbol(id)) => image.symbol_address(id),
        Some(Import::Address(address)) => Some(address),
        None => None,
    };
    let number = || match name.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => name.parse().ok(),
    };
    if let Some(address) = address.or_else(number) {
        return (address, None);
    }
    let start = match image.plans[0].code.size {
        0 => 0,
        _ => image.bases[0].code,
    };
    let warning = format!(
        "cannot find the entry symbol {name}: the program starts at {start:#x}; name one with -e, or link the start \
         file (crt1.o)"
    );
    (start, Some(warning))
}
