//! The units of a link: the application, the libraries, and what archives of the program are until they are part of it.

use std::path::Path;

use super::args::LinkRequest;
use super::definitions;
use super::error::LinkError;
use super::files::{Code, InputBytes, Inputs, MemberBytes, ObjectBytes, Step};
use super::hash::HashSet;
use super::library::{self, Library, Naming};
use super::object::{self, Object};
use super::own::{self, Origins};
use super::resolve::{Became, Event, Resolution};
use super::unit::{APPLICATION, Beforehand, Groups, Unit, UnitKind};
use super::{intermediate, pattern};
use crate::layout::LayoutKind;

/// The application (unit 0), the libraries (units from 1 on), and behind them archives of the program, until they are
/// absorbed.
pub(super) struct LinkSet<'a> {
    pub(super) units: Vec<Unit<'a>>,
    pub(super) libraries: Vec<Library>,
    /// Of each file.
    pub(super) became: Vec<Became>,
    /// By unit: of each object of a library, which member it is.
    pub(super) members: Vec<Vec<usize>>,
    pub(super) beforehand: Beforehand<'a>,
    /// The object of the application that is for symbols of the command line.
    pub(super) definitions: Option<usize>,
}

impl<'a> LinkSet<'a> {
    pub(super) fn read(request: &'a LinkRequest, inputs: &'a Inputs) -> Result<Self, LinkError> {
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
        let origins = Origins::of(request, inputs.tables.are_of_unikraft());
        let kind = match request.layout {
            LayoutKind::Spacer => UnitKind::Aligned,
            _ => UnitKind::Library,
        };
        let mut own_files = Vec::new();
        let whole: HashSet<usize> = inputs.steps.iter().filter_map(taken_whole).collect();
        for (at, file) in inputs.files.iter().enumerate() {
            if let InputBytes::Archive { members, .. } = file
                && whole.contains(&at)
            {
                refuse_foreign(members)?;
            }
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
                    let digest = library::contents_digest(members.iter().map(|m| &*m.bytes));
                    // A copy of one that is there already is the same library.
                    let mut known = namings.iter().zip(&contents);
                    if let Some(known) = known.position(|known| known == (&naming, &digest)) {
                        became.push(Became::Archive(known + 1));
                        continue;
                    }
                    namings.push(naming);
                    contents.push(digest);
                    let (unit, of) = archive_unit(kind, path, members)?;
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
        if request.layout == LayoutKind::Spacer {
            library::set_apart(&mut namings);
        }
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
    pub(super) fn absorb(
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

/// The file of which every member is to be in the program.
fn taken_whole(step: &Step) -> Option<usize> {
    match step {
        Step::Whole(file) => Some(*file),
        _ => None,
    }
}

/// What is no object for x86-64 is passed over in an archive, unless it is to be in the program.
fn refuse_foreign(members: &[MemberBytes]) -> Result<(), LinkError> {
    let foreign = members
        .iter()
        .find(|member| member.code == Code::Machine && object::is_foreign(&member.bytes));
    match foreign {
        Some(member) => Object::parse(&member.name, &member.bytes).map(drop),
        None => Ok(()),
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
