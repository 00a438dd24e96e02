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
//! first), `object` and `unit` (what there is), `resolve`, `own`, `definitions` and `collect` (what the program is), `library` and `symbols` (what refers to what in a library), `plan` and `places` (what
//! goes where, without addresses), [`registry`] (addresses), `image`, `checks`, `relocate` and `site` (the bytes), `moves` (what of them holds
//! addresses), `output` (the file).
//!
//! An archive of the system, or one that a person names, is a library, the C library and the compiler's
//! support libraries too; start files, objects and what is needed of other archives are the application (`own`). A library of
//! which no member is in the program is not in the image.
//!
//! A link that succeeds behaves as ld's does, or it is refused by name. What a program can tell nevertheless:
//!
//! - members that nobody needs lie in a library's pages; they are not run, and what they lack ends the program if it
//!   is ever called;
//! - of a function that C++ has one of in a program (an inline one) libraries call their own copies;
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
mod gathered;
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
mod resolve;
mod script;
mod search;
mod sections;
mod site;
mod slots;
mod source;
mod start;
mod symbols;
mod symtab;
mod tables;
mod target;
mod unit;

use std::collections::BTreeMap;
use std::path::Path;

use pool_core::name::LibraryRef;
use pool_core::page::{PAGE_SIZE, PageCount};
use pool_core::registry::{Known, Places, Reservation, ReservationRequest};

pub use args::{
    BuildId, Compression, Definition, Discard, Expression, InputFile, LibraryAlias, LinkRequest,
    Mark, Operator, Plugin, Question, Strip, Undefined, expand, parse_args,
};
pub use dynamic::refuse_shared_libraries;
pub use error::LinkError;
pub use registry::{FileRegistry, Registry, RegistryError};

use crate::layout::{self, LinkLayout, MOST_REASONS, PlacedLibrary, Reason};
use addresses::Import;
use files::{Code, InputBytes, Inputs, MemberBytes, ObjectBytes};
use image::Image;
use library::{Library, Naming};
use object::{Object, Place};
use own::Origins;
use places::record::Record;
use plan::{Follow, Plan};
use relocate::{Contents, OwnPage};
use resolve::{Asked, Became, Event, Resolution};
use target::UnitTargets;
use unit::{Beforehand, Groups, Unit, UnitKind};

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

/// What a library takes in an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LibraryPages {
    /// Name and version.
    pub library: LibraryRef,
    /// The archive.
    pub file: String,
    /// Pages that all images share, but for those of its own.
    pub shared: PageCount,
    /// Pages of these that differ in this image, since the program means something else there than other
    /// programs do: it replaces what the library refers to.
    pub own: PageCount,
    /// What it replaces, each with the number of such pages, most first.
    pub because: Vec<Reason>,
    /// Read-only pages that hold addresses of the image.
    pub bound: PageCount,
    /// Pages of data and zeros.
    pub data: PageCount,
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

    let units: Vec<&Unit<'_>> = set.units.iter().collect();
    let mut plans: Vec<Plan<'_>> = (0..units.len())
        .map(|own| Plan::new(&units, own, &targets[own], request))
        .collect::<Result<_, _>>()?;
    let reservations = set.reserve(&mut plans, &program, registry)?;
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

    let layout = set.layout(&image, &contents, &reservations);
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
            .then(|| map::text(&image, &contents, &names)),
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

/// What the command line says of the program, beside its files.
fn asked<'a>(
    request: &'a LinkRequest,
    wrappers: &'a [(String, String)],
    beforehand: &'a Beforehand<'a>,
) -> Asked<'a> {
    let needed = request.undefined.iter().chain(&request.required);
    Asked {
        roots: needed.chain([&request.entry]).map(String::as_str).collect(),
        may_repeat: request.allow_multiple_definition,
        warns_common: request.warns_common,
        renamed: wrappers
            .iter()
            .map(|(from, to)| (from.as_str(), to.as_str()))
            .collect(),
        definitions: &request.definitions,
        beforehand,
    }
}

/// What is called by other names, each with that.
fn wrappers(request: &LinkRequest) -> Vec<(String, String)> {
    let wrapped = request.wrapped.iter();
    wrapped
        .flat_map(|name| {
            let wrapper = (name.clone(), format!("__wrap_{name}"));
            [wrapper, (format!("__real_{name}"), name.clone())]
        })
        .collect()
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

/// How the unit that no library is is called.
const APPLICATION: &str = "the application";

/// The application (unit 0), the libraries (units from 1 on), and behind them archives of the program, until they are
/// absorbed.
struct LinkSet<'a> {
    units: Vec<Unit<'a>>,
    libraries: Vec<Library>,
    /// Of each file.
    became: Vec<Became>,
    /// By unit: of each object of a library, which member it is.
    members: Vec<Vec<usize>>,
    beforehand: Beforehand<'a>,
    /// The object of the application that is for symbols of the command line.
    definitions: Option<usize>,
}

impl<'a> LinkSet<'a> {
    fn read(request: &'a LinkRequest, inputs: &'a Inputs) -> Result<Self, LinkError> {
        let mut application = Vec::new();
        let mut libraries: Vec<Unit<'a>> = Vec::new();
        let mut namings: Vec<Naming> = Vec::new();
        let mut contents = Vec::new();
        let mut became = Vec::new();
        let mut members_of = vec![Vec::new()];
        let held = inputs.held.iter().map(String::as_str).collect();
        let mut beforehand = Beforehand {
            groups: Groups::holding(held),
            ..Beforehand::default()
        };
        let origins = Origins::of(request);
        let mut own_files = Vec::new();
        for (at, file) in inputs.files.iter().enumerate() {
            match file {
                InputBytes::Objects(all) => {
                    let first = application.len();
                    for file in all {
                        if file.is_made {
                            beforehand.made.insert(application.len());
                        }
                        application.extend(application_object(file)?);
                    }
                    became.push(Became::Objects(first, application.len() - first));
                }
                InputBytes::Archive { path, members } if origins.is_library(path) => {
                    let naming = library::naming(path, &request.libraries);
                    let digest =
                        library::contents_digest(members.iter().map(|m| m.bytes.as_slice()));
                    // A copy of one that is there already is the same library.
                    let mut known = namings.iter().zip(&contents);
                    if let Some(known) = known.position(|known| known == (&naming, &digest)) {
                        became.push(Became::Archive(known + 1));
                        continue;
                    }
                    namings.push(naming);
                    contents.push(digest);
                    let (unit, of) = archive_unit(UnitKind::Library, path, members)?;
                    libraries.push(unit);
                    let taken = taken(libraries.len(), &of, members);
                    beforehand.taken.extend(taken);
                    members_of.push(of);
                    became.push(Became::Archive(libraries.len()));
                }
                InputBytes::Archive { path, members } => {
                    own_files.push((at, path, members));
                    // Until all libraries are known.
                    became.push(Became::Objects(0, 0));
                }
            }
        }
        let mut own = Vec::new();
        for (file, path, members) in own_files {
            let (unit, of) = archive_unit(UnitKind::Application, path, members)?;
            own.push(unit);
            let number = libraries.len() + own.len();
            beforehand.taken.extend(taken(number, &of, members));
            members_of.push(of);
            became[file] = Became::Archive(number);
        }
        let definitions = definitions::object(request).map(|object| {
            application.push(object);
            application.len() - 1
        });
        let of_archives = own.iter_mut().flat_map(|unit| &mut unit.objects);
        for section in application
            .iter_mut()
            .chain(of_archives)
            .flat_map(|object| &mut object.sections)
        {
            let mut patterns = request.unique.iter();
            section.keeps_name = patterns.any(|pattern| pattern::matches(pattern, section.name))
                || inputs.tables.place(section.name).is_some();
        }
        let mut application = Unit::new(
            UnitKind::Application,
            APPLICATION.to_owned(),
            application,
            request.allow_multiple_definition,
            &beforehand,
        )?;
        application.reaches_by_slots = request.slides_libraries;
        library::tell_apart(&mut namings, &contents);
        let settled = library::settle(&libraries, &namings, &contents)?;
        let mut units = vec![application];
        units.append(&mut libraries);
        units.append(&mut own);
        Ok(Self {
            units,
            libraries: settled,
            became,
            members: members_of,
            beforehand,
            definitions,
        })
    }

    /// Makes archives of the program part of the application, if there are any: what the program took, and what was known
    /// beforehand, for what the units are then.
    fn absorb(
        &mut self,
        request: &LinkRequest,
        program: &Resolution<'a>,
        beforehand: &Beforehand<'a>,
    ) -> Result<Option<(Vec<Event>, Beforehand<'a>)>, LinkError> {
        let own = self.units.split_off(1 + self.libraries.len());
        if own.is_empty() {
            return Ok(None);
        }
        let application = self.units.remove(0);
        let absorbed = own::absorb(
            application,
            own,
            self.libraries.len(),
            program,
            request.allow_multiple_definition,
            beforehand,
        )?;
        self.units.insert(0, absorbed.application);
        let definitions = self.definitions.map(|object| absorbed.places[object]);
        self.definitions = definitions;
        Ok(Some((absorbed.events, absorbed.beforehand)))
    }

    /// Asks for the addresses of all libraries of the image, with their plans as the registry has it: each keeps the
    /// places that are on record of its version, or of the one before.
    fn reserve(
        &self,
        plans: &mut [Plan<'a>],
        program: &Resolution<'a>,
        registry: &mut dyn Registry,
    ) -> Result<Vec<Option<Reservation>>, LinkError> {
        let libraries = 0..self.libraries.len();
        let mut open: Vec<usize> = libraries.filter(|at| program.includes(at + 1)).collect();
        let mut reservations = vec![None; self.libraries.len()];
        // Whoever registers a version first decides what it keeps, and that may have been another one since.
        for is_last in [false, true] {
            if open.is_empty() {
                break;
            }
            let requests = self.requests(&open, plans, registry)?;
            let reserved = registry.reserve(&requests)?;
            if reserved.len() != requests.len() {
                let library = requests[0].library.clone();
                let problem = format!("{} answers to {} requests", reserved.len(), requests.len());
                return Err(LinkError::BadReservation { library, problem });
            }
            let mut others = Vec::new();
            for ((at, request), reservation) in open.into_iter().zip(requests).zip(reserved) {
                if !is_last && reservation.request.keeps != request.keeps {
                    others.push(at);
                    continue;
                }
                check(&request, &reservation).map_err(|problem| LinkError::BadReservation {
                    library: request.library,
                    problem,
                })?;
                reservations[at] = Some(reservation);
            }
            open = others;
        }
        Ok(reservations)
    }

    /// What the libraries `open` ask for, once their plans are as the registry has it.
    fn requests(
        &self,
        open: &[usize],
        plans: &mut [Plan<'a>],
        registry: &mut dyn Registry,
    ) -> Result<Vec<ReservationRequest>, LinkError> {
        let names: Vec<LibraryRef> = open
            .iter()
            .map(|at| self.libraries[*at].reference.clone())
            .collect();
        let all = registry.known(&names)?;
        if all.len() != names.len() {
            let problem = format!("{} answers to {} questions", all.len(), names.len());
            let library = names[0].clone();
            return Err(LinkError::BadReservation { library, problem });
        }
        let requests = open.iter().zip(all).map(|(at, known)| {
            let (library, plan, unit) = (
                &self.libraries[*at],
                &mut plans[at + 1],
                &self.units[at + 1],
            );
            let keeps = keep(plan, unit, &known).map_err(|problem| LinkError::BadReservation {
                library: library.reference.clone(),
                problem,
            })?;
            let mut request = request(library, plan);
            request.keeps = keeps;
            if matches!(known, Known::Earlier { .. } | Known::Nothing) {
                let record = plan.record(unit);
                request.places = record.and_then(|record| Places::new(record.to_bytes()));
            }
            Ok(request)
        });
        requests.collect()
    }

    fn layout(
        &self,
        image: &Image<'_, '_>,
        contents: &Contents,
        reservations: &[Option<Reservation>],
    ) -> LinkLayout {
        let placed = |unit: usize| {
            let reservation = reservations[unit - 1].as_ref()?;
            let page = |page: &usize| PageCount(*page as u64);
            Some(PlacedLibrary {
                library: self.libraries[unit - 1].reference.clone(),
                shared: reservation.shared,
                private: reservation.private,
                own: contents.own[unit].keys().map(page).collect(),
                because: because(&contents.own[unit])
                    .into_iter()
                    .take(MOST_REASONS)
                    .collect(),
            })
        };
        let libraries: Vec<PlacedLibrary> = image
            .included()
            .filter(|unit| *unit != 0)
            .filter_map(placed)
            .collect();
        LinkLayout {
            format: layout::format_of(&libraries),
            libraries,
            fixed: contents.moves.why_fixed(),
        }
    }

    /// The objects and the archives that something of is in the image.
    fn trace(&self, image: &Image<'_, '_>) -> String {
        let objects = self.units[0].objects.iter().map(|object| &object.name);
        let archives = image.included().filter(|unit| *unit != 0);
        let archives = archives.map(|unit| &self.units[unit].label);
        objects
            .chain(archives)
            .flat_map(|name| [name.as_str(), "\n"])
            .collect()
    }

    fn names(&self) -> Vec<String> {
        let libraries = self.libraries.iter();
        std::iter::once(String::new())
            .chain(libraries.map(|l| l.reference.name.to_string()))
            .collect()
    }

    fn pages(&self, image: &Image<'_, '_>, contents: &Contents) -> Vec<LibraryPages> {
        let libraries = image.included().filter(|unit| *unit != 0);
        libraries
            .map(|unit| {
                let plan = &image.plans[unit];
                LibraryPages {
                    library: self.libraries[unit - 1].reference.clone(),
                    file: self.units[unit].label.clone(),
                    shared: PageCount::covering(plan.shared_size()),
                    own: PageCount(contents.own[unit].len() as u64),
                    because: because(&contents.own[unit]),
                    bound: PageCount::covering(plan.bound.size),
                    data: PageCount::covering(plan.data.size),
                }
            })
            .collect()
    }

    fn warnings(
        &self,
        request: &LinkRequest,
        image: &Image<'_, '_>,
        others: Vec<String>,
    ) -> Vec<String> {
        let mut warnings = request.warnings.clone();
        warnings.extend(others);
        if request.executable_stack.is_none()
            && let Some(object) = image.asks_for_executable_stack()
        {
            warnings.push(format!(
                "{object} requires executable stack, or does not say that it needs none \
                 (.note.GNU-stack): the program has one"
            ));
        }
        warnings.extend(self.of_symbols(image));
        warnings
    }

    /// What libraries say about the use of a symbol of theirs (`.gnu.warning.SYMBOL`), for each object that
    /// refers to it.
    fn of_symbols(&self, image: &Image<'_, '_>) -> Vec<String> {
        let live = || {
            let units = self.units.iter().enumerate();
            units.flat_map(|(u, unit)| {
                let objects = unit.objects.iter().enumerate();
                objects.filter_map(move |(o, object)| image.program.is_live(u, o).then_some(object))
            })
        };
        let mut told: BTreeMap<&str, &[u8]> = BTreeMap::new();
        for section in live().flat_map(|object| &object.sections) {
            if let Some(symbol) = section.name.strip_prefix(".gnu.warning.") {
                told.entry(symbol).or_insert(section.bytes);
            }
        }
        if told.is_empty() {
            return Vec::new();
        }
        let uses = live().flat_map(|object| {
            let symbols = object.symbols.iter();
            let undefined = symbols.filter(|symbol| symbol.place == Place::Undefined);
            undefined.filter_map(|symbol| {
                let text = String::from_utf8_lossy(told.get(symbol.name)?);
                Some(format!(
                    "{}: {}",
                    object.name,
                    text.trim_end_matches('\0').trim_end()
                ))
            })
        });
        uses.collect()
    }
}

fn request(library: &Library, plan: &Plan<'_>) -> ReservationRequest {
    ReservationRequest {
        library: library.reference.clone(),
        identity: library.identity,
        shared_pages: PageCount::covering(plan.shared_size()),
        private_pages: PageCount::covering(plan.private_size()),
        shared_alignment: plan.shared_alignment(),
        tls_size: plan.thread.size,
        tls_alignment: plan.thread.alignment,
        dependencies: Vec::new(),
        keeps: None,
        places: None,
    }
}

/// Moves what a plan has to where it is on record, and says whose places it keeps.
fn keep<'a>(
    plan: &mut Plan<'a>,
    unit: &Unit<'a>,
    known: &Known,
) -> Result<Option<LibraryRef>, String> {
    let (version, places, follow) = match known {
        Known::Alone | Known::Nothing => return Ok(None),
        Known::Earlier { version, places } => (version, places, Follow::IfWorth),
        Known::Keeping { version, places } => (version, places, Follow::Always),
    };
    let record = Record::parse(places.bytes());
    match (record, follow) {
        (Some(record), _) if plan.keep(unit, &record, follow) => Ok(Some(version.clone())),
        (_, Follow::IfWorth) => Ok(None),
        (_, Follow::Always) => Err(format!(
            "it keeps places of {version}, and the record of its own is none of this linker's"
        )),
    }
}

/// For how many pages each symbol is a reason.
fn because(own: &BTreeMap<usize, OwnPage>) -> Vec<Reason> {
    let mut pages: BTreeMap<&String, u64> = BTreeMap::new();
    for symbol in own.values().flat_map(|page| &page.because) {
        *pages.entry(symbol).or_default() += 1;
    }
    let mut pages: Vec<_> = pages
        .into_iter()
        .map(|(symbol, count)| Reason {
            symbol: symbol.clone(),
            pages: PageCount(count),
        })
        .collect();
    pages.sort_by_key(|reason| std::cmp::Reverse(reason.pages));
    pages
}

/// The object that is linked for one of the command line, if any is.
fn application_object(file: &ObjectBytes) -> Result<Option<Object<'_>>, LinkError> {
    match &file.code {
        Code::Machine => {
            let object = Object::parse(&file.name, &file.bytes)?;
            object.refuse_intermediate_code()?;
            Ok(Some(object))
        }
        Code::Intermediate(symbols) => Ok(Some(intermediate::object(&file.name, symbols))),
        Code::Compiled => Ok(None),
    }
}

/// Objects of a unit whose members are in the program whether something needs them or not.
fn taken<'m>(
    unit: usize,
    of: &'m [usize],
    members: &'m [MemberBytes],
) -> impl Iterator<Item = (usize, usize)> + 'm {
    let objects = of.iter().enumerate();
    let taken = objects.filter(|(_, member)| members[**member].is_taken);
    taken.map(move |(object, _)| (unit, object))
}

/// An archive, and which member each of its objects is.
fn archive_unit<'a>(
    kind: UnitKind,
    path: &Path,
    members: &'a [MemberBytes],
) -> Result<(Unit<'a>, Vec<usize>), LinkError> {
    let mut objects = Vec::with_capacity(members.len());
    let mut of = Vec::with_capacity(members.len());
    for (at, member) in members.iter().enumerate() {
        let object = match &member.code {
            Code::Machine if object::is_foreign(&member.bytes) => continue,
            Code::Machine => Object::parse(&member.name, member.object())?,
            Code::Intermediate(symbols) => intermediate::object(&member.name, symbols),
            Code::Compiled => continue,
        };
        // Whoever refers to what nothing compiles is told of what is undefined.
        if !object.is_intermediate_code() {
            objects.push(object);
            of.push(at);
        }
    }
    let unit = Unit::new(
        kind,
        path.display().to_string(),
        objects,
        true,
        &Beforehand::default(),
    )?;
    Ok((unit, of))
}

/// A registry may be another machine's: what it answers must fit.
fn check(request: &ReservationRequest, reservation: &Reservation) -> Result<(), String> {
    use pool_core::registry::{PRIVATE_END, PRIVATE_START, SHARED_START};
    if !reservation.request.is_as(request) {
        return Err("it is for another request".to_owned());
    }
    let ranges = [
        (
            reservation.shared,
            request.shared_pages,
            request.shared_alignment,
            SHARED_START,
            PRIVATE_START,
        ),
        (
            reservation.private,
            request.private_pages,
            PAGE_SIZE,
            PRIVATE_START,
            PRIVATE_END,
        ),
    ];
    for (range, pages, alignment, start, end) in ranges {
        let fits = range.pages == pages
            && range.start.0.is_multiple_of(alignment)
            && range.start >= start
            && pages
                .checked_bytes()
                .and_then(|bytes| range.start.checked_add(bytes))
                .is_some_and(|last| last <= end);
        if !fits {
            return Err(format!(
                "{} pages at {} do not fit between {start} and {end}",
                range.pages, range.start
            ));
        }
    }
    let tls = reservation.tls;
    let fits = tls.size == request.tls_size
        && (tls.size == 0
            || (tls.offset >= tls.size && tls.offset.is_multiple_of(request.tls_alignment.max(1))));
    if !fits || tls.offset > 1 << 30 {
        return Err("its thread-local block does not fit".to_owned());
    }
    Ok(())
}
