//! Link-time optimization: objects that hold a compiler's intermediate code are compiled, together and by the compiler's
//! own plugin, when it is known what else the program is. Source: binutils, `ld/plugin.c`, and GCC's `lto-plugin.c`.
//!
//! 1. The plugin is shown each file that holds such code, and says which symbols it will define and refer to.
//! 2. The program is resolved with these as with any objects.
//! 3. The plugin is told what became of each symbol, and compiles what is in the program.
//! 4. What it made is linked in place of the first of these files, and the program is resolved once more: machine code
//!    refers to functions that no source names. Members of archives that were in the program stay in it.
//!
//! What is made is of the whole program, so it is the application's, whether the code was an object's or an archive
//! member's. A member that has machine code, too, is linked as that: it is part of a library, whose pages are the same
//! for all programs.

mod abi;
mod answers;
mod host;
mod plugin;

use answers::Answer;

use super::args::LinkRequest;
use super::asked::{asked, wrappers};
use super::error::LinkError;
use super::files::{self, Code, InputBytes, Inputs, MemberBytes, ObjectBytes, Step};
use super::hash::HashSet;
use super::intermediate;
use super::object::Object;
use super::resolve::{Became, Resolution};
use super::set::LinkSet;
use super::source::Source;
use plugin::Plugins;

/// A file that a plugin took: its place, and that of the member.
type Claimed = (usize, Option<usize>);

/// Compiles what is intermediate code among `inputs`, if a plugin is named that takes it. Says what it has to say.
pub(super) fn compile(
    request: &LinkRequest,
    inputs: &mut Inputs,
) -> Result<Vec<String>, LinkError> {
    let candidates = candidates(request, &inputs.files);
    if candidates.is_empty() {
        return Ok(Vec::new());
    }
    let mut plugins = Plugins::load(request)?;
    // By handle.
    let mut claimed: Vec<Option<Claimed>> = Vec::new();
    for at in candidates {
        if let Some((handle, symbols)) = plugins.claim(source(&inputs.files, at))? {
            claimed.resize(handle + 1, None);
            claimed[handle] = Some(at);
            *code_mut(&mut inputs.files, at) = Code::Intermediate(symbols);
        }
    }
    if claimed.is_empty() {
        return Ok(Vec::new());
    }
    let Found {
        answers,
        taken,
        held,
    } = first_round(request, inputs, &claimed)?;
    let first = claimed.iter().zip(&answers);
    let first = first.clone().find(|(_, answers)| answers.is_some());
    let first = first.and_then(|(at, _)| *at);
    let made = if first.is_some() {
        let answers = claim_needed(&mut plugins, &inputs.files, &claimed, answers)?;
        plugins.compile(answers)?
    } else {
        host::Made::default()
    };
    for at in claimed.into_iter().flatten() {
        *code_mut(&mut inputs.files, at) = Code::Compiled;
    }
    inputs.held = held;
    for (file, member) in taken {
        if let InputBytes::Archive { members, .. } = &mut inputs.files[file] {
            members[member].is_taken = true;
        }
    }
    let objects = made.files.iter().map(|path| files::made_object(path));
    let objects = objects.collect::<Result<Vec<_>, _>>()?;
    if let Some(first) = first {
        place(inputs, first, objects);
    }
    files::add_libraries(request, inputs, &made.libraries)?;
    Ok(made.warnings)
}

/// Has the plugin claim what is in the program, if it claimed more than that. The answers are by its handles.
fn claim_needed(
    plugins: &mut Plugins<'_>,
    files: &[InputBytes],
    claimed: &[Option<Claimed>],
    answers: Vec<Option<Vec<Answer>>>,
) -> Result<Vec<Option<Vec<Answer>>>, LinkError> {
    let is_needed =
        |(at, answers): (&Option<Claimed>, &Option<_>)| at.is_none() || answers.is_some();
    if claimed.iter().zip(&answers).all(is_needed) || !plugins.forget()? {
        return Ok(answers);
    }
    let mut again = Vec::new();
    for (at, answers) in claimed.iter().zip(answers) {
        if let (Some(at), Some(answers)) = (at, answers)
            && let Some((handle, _)) = plugins.claim(source(files, *at))?
        {
            again.resize(handle + 1, None);
            again[handle] = Some(answers);
        }
    }
    Ok(again)
}

/// Files that a plugin may take: objects that hold intermediate code, and members of archives that hold nothing else.
fn candidates(request: &LinkRequest, files: &[InputBytes]) -> Vec<Claimed> {
    if request.plugins.is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (at, file) in files.iter().enumerate() {
        match file {
            InputBytes::Objects(objects) => {
                if objects
                    .iter()
                    .any(|object| intermediate::is_held_by(&object.bytes))
                {
                    found.push((at, None));
                }
            }
            InputBytes::Archive { members, .. } => {
                let members = members.iter().enumerate();
                let members = members.filter(|(_, member)| holds_code_alone(member));
                found.extend(members.map(|(member, _)| (at, Some(member))));
            }
        }
    }
    found
}

fn holds_code_alone(member: &MemberBytes) -> bool {
    let bytes = &member.bytes;
    intermediate::is_held_by(bytes)
        && (intermediate::is_bitcode(bytes)
            || Object::parse(&member.name, bytes).is_ok_and(|object| object.is_intermediate_code()))
}

fn source(files: &[InputBytes], (file, member): Claimed) -> &Source {
    match &files[file] {
        InputBytes::Objects(objects) => &objects[0].source,
        InputBytes::Archive { members, .. } => &members[member.unwrap_or(0)].source,
    }
}

fn code_mut(files: &mut [InputBytes], (file, member): Claimed) -> &mut Code {
    match &mut files[file] {
        InputBytes::Objects(objects) => &mut objects[0].code,
        InputBytes::Archive { members, .. } => &mut members[member.unwrap_or(0)].code,
    }
}

/// What is known before anything is compiled.
struct Found {
    /// By handle.
    answers: Vec<Option<Vec<Answer>>>,
    /// Members of archives that are in the program, by file and member.
    taken: Vec<(usize, usize)>,
    /// Signatures of groups of which the intermediate code's copy counts.
    held: HashSet<String>,
}

fn first_round(
    request: &LinkRequest,
    inputs: &Inputs,
    claimed: &[Option<Claimed>],
) -> Result<Found, LinkError> {
    let wrappers = wrappers(request);
    let set = LinkSet::read(request, inputs)?;
    let asked = asked(request, &wrappers, &set.beforehand);
    let program = Resolution::new(&set.units, &inputs.steps, &set.became, &asked)?;
    let place = |(file, member): Claimed| match (set.became[file], member) {
        (Became::Objects(first, _), _) => Some((0, first)),
        (Became::Archive(unit), Some(member)) => {
            // A copy of another archive has no objects of its own.
            let is_own = set
                .became
                .iter()
                .position(|became| *became == Became::Archive(unit))
                == Some(file);
            let members = set.members[unit].iter();
            let object = members
                .clone()
                .position(|of| *of == member)
                .filter(|_| is_own)?;
            Some((unit, object))
        }
        (Became::Archive(_), None) => None,
    };
    let places: Vec<Option<(usize, usize)>> = claimed
        .iter()
        .map(|claimed| claimed.and_then(place))
        .collect();
    let view = answers::View::new(request, &set.units, &program, &places);
    let (answers, held) = (view.answers(&places), view.held());
    let mut taken = Vec::new();
    for (file, became) in set.became.iter().enumerate() {
        if let Became::Archive(unit) = became {
            let members = set.members[*unit].iter().enumerate();
            let live = members.filter(|(object, _)| program.is_live(*unit, *object));
            taken.extend(live.map(|(_, member)| (file, *member)));
        }
    }
    Ok(Found {
        answers,
        taken,
        held,
    })
}

/// Puts objects in the place of the first file that they were made of: there, or, if it is a member of an archive, behind
/// the last object before that (`find_replacements_insert_point` in `ld/ldlang.c`).
fn place(inputs: &mut Inputs, first: Claimed, objects: Vec<ObjectBytes>) {
    let is_object = |file: &usize| matches!(inputs.files[*file], InputBytes::Objects(_));
    let before = (0..=first.0).rev().find(is_object);
    let behind = before.or_else(|| (first.0..inputs.files.len()).find(is_object));
    if let Some(InputBytes::Objects(there)) = behind.map(|file| &mut inputs.files[file]) {
        there.extend(objects);
        return;
    }
    inputs.steps.insert(0, Step::Object(inputs.files.len()));
    inputs.files.push(InputBytes::Objects(objects));
}
