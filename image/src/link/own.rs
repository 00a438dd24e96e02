//! Archives of the program itself.
//!
//! A library has addresses that are reserved for ever, and pages that other programs are to have, too. What a build makes
//! for one program is neither known to others nor there to stay: many projects gather their objects in archives on the way.
//! So an archive is a library if a person says so (`--pool-library`, which makes one of an object, too), or if it belongs to the system: it lies where systems
//! and toolchains keep libraries, and not where the program is being built. What is needed of any other is part of the application, as with an ordinary linker, and
//! reserves nothing. Unikraft's builds make one object of each of their libraries (`libNAME.o`, by `ld -r`), which are libraries by that,
//! wherever they lie: their addresses are what such images share. In a layout without libraries ([`crate::layout::LayoutKind`]) every archive is.

use std::path::{Component, Path, PathBuf};

use super::args::{InputFile, LinkRequest};
use super::error::LinkError;
use super::library;
use super::object::Object;
use super::resolve::{Event, Resolution};
use super::unit::{APPLICATION, Beforehand, Unit, UnitKind};

/// Where systems keep libraries: the file system hierarchy standard's, and the stores of Nix and Guix.
const SYSTEM: [&str; 6] = ["/usr", "/lib", "/lib64", "/opt", "/nix/store", "/gnu/store"];
/// In these, where sources are built.
const SOURCES: [&str; 4] = ["/usr/src", "/usr/local/src", "/usr/obj", "/usr/ports"];
/// What these have by the same standard. Another folder of theirs is somebody's own, as `/usr/app` in many a container.
const HIERARCHY: [&str; 15] = [
    "bin", "etc", "games", "include", "lib", "lib32", "lib64", "libexec", "libx32", "local", "man",
    "sbin", "share", "src", "tmp",
];
/// Where programs have a folder each, which may also be one that they are built in; and which folders there are no such.
const PACKAGES: [(&str, &[&str]); 3] = [
    ("/opt", &[]),
    ("/usr", &HIERARCHY),
    ("/usr/local", &HIERARCHY),
];
/// Part of the path of what a Rust toolchain has for a target.
const RUST: &str = "rustlib";

/// What Unikraft generates for each application anew: which libraries it has, by number.
const NUMBERS_OF_UNIKRAFT: &str = "libuklibid.o";

/// Tells libraries from archives of the program.
#[derive(Debug)]
pub(super) struct Origins<'r> {
    request: &'r LinkRequest,
    /// It is the link of a Unikraft build.
    is_unikraft: bool,
    /// Folders of the system and of toolchains.
    system: Vec<PathBuf>,
    /// Folders in these that are the program's.
    built: Vec<PathBuf>,
}

impl<'r> Origins<'r> {
    /// The folder of a start file is the C library's, or the compiler's.
    pub(super) fn of(request: &'r LinkRequest, is_unikraft: bool) -> Self {
        let here = std::env::current_dir().ok();
        Self {
            is_unikraft,
            ..Self::seen_from(request, here.as_deref())
        }
    }

    /// The same for a link in the folder `here`.
    fn seen_from(request: &'r LinkRequest, here: Option<&Path>) -> Self {
        let starts = request.inputs.iter().filter_map(|input| match input {
            InputFile::Path(path) if is_start_file(path) => path.parent(),
            _ => None,
        });
        let given = starts.chain(request.sysroot.as_deref());
        let mut system: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
        // A sysroot of the whole system is none, and a start file may lie in the folder of the program.
        system.extend(
            given
                .filter_map(|path| path.canonicalize().ok())
                .filter(|path| !here.is_some_and(|here| here.starts_with(path))),
        );
        let packages = PACKAGES.iter().filter_map(|(folder, others)| {
            let inside = here?.strip_prefix(folder).ok()?;
            let package = inside.components().next()?.as_os_str();
            let is_other = others.iter().any(|other| package == *other);
            (!is_other).then(|| Path::new(folder).join(package))
        });
        let built = SOURCES.iter().map(PathBuf::from).chain(packages).collect();
        Self {
            request,
            is_unikraft: false,
            system,
            built,
        }
    }

    /// True for an archive that is a library.
    pub(super) fn is_library(&self, path: &Path) -> bool {
        let request = self.request;
        if !request.layout.has_libraries() {
            return false;
        }
        request.own_are_libraries
            || self.is_unikraft && is_library_of_unikraft(path)
            || library::alias(path, &request.libraries).is_some()
            || std::path::absolute(path).is_ok_and(|path| self.is_of_system(&path))
            || path
                .canonicalize()
                .is_ok_and(|path| self.is_of_system(&path))
    }

    fn is_of_system(&self, path: &Path) -> bool {
        let is_in = |folder: &PathBuf| path.starts_with(folder);
        let is_rust = |part: Component<'_>| part.as_os_str() == RUST;
        !self.built.iter().any(is_in)
            && (self.system.iter().any(is_in) || path.components().any(is_rust))
    }
}

/// One of the objects that a Unikraft build links, if it is a library.
pub(super) fn is_library_of_unikraft(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("lib") && name.ends_with(".o") && name != NUMBERS_OF_UNIKRAFT
}

/// `crt1.o`, `Scrt1.o`, `crtbeginT.o` and their like.
fn is_start_file(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.strip_suffix(".o").unwrap_or_default();
    let stem = stem.trim_start_matches(['S', 'M', 'g', 'r']);
    stem.strip_prefix("crt").is_some_and(|which| {
        let mut starts = ["begin", "end", "prec"].iter();
        matches!(which, "0" | "1" | "i" | "n" | "fastmath")
            || starts.any(|start| which.starts_with(start))
    })
}

/// Units that are archives of the program become part of the application: those of their objects that are in the program,
/// in the order in which it took them.
#[derive(Debug)]
pub(super) struct Absorbed<'a> {
    pub(super) application: Unit<'a>,
    /// What the program took, in order, by the new positions.
    pub(super) events: Vec<Event>,
    /// What was known beforehand, for these.
    pub(super) beforehand: Beforehand<'a>,
    /// The new position of each of the application's objects.
    pub(super) places: Vec<usize>,
}

/// Makes one application of it and of `own`, which come behind `libraries` libraries.
pub(super) fn absorb<'a>(
    application: Unit<'a>,
    own: Vec<Unit<'a>>,
    libraries: usize,
    program: &Resolution<'a>,
    may_repeat: bool,
    beforehand: &Beforehand<'a>,
) -> Result<Absorbed<'a>, LinkError> {
    let reaches_by_slots = application.reaches_by_slots;
    let mut parts: Vec<Vec<Option<Object<'a>>>> = std::iter::once(application)
        .chain(own)
        .map(|unit| unit.objects.into_iter().map(Some).collect())
        .collect();
    // Which part was this unit?
    let part = |unit: usize| match unit.checked_sub(libraries) {
        _ if unit == 0 => Some(0),
        None | Some(0) => None,
        Some(own) => Some(own),
    };
    let mut objects = Vec::new();
    let mut places = vec![0; parts[0].len()];
    let mut events = Vec::with_capacity(program.events().len());
    for event in program.events() {
        let mut event = *event;
        if let Event::Loaded { unit, object } = event
            && let Some(part) = part(unit)
            && let Some(loaded) = parts[part][object].take()
        {
            if part == 0 {
                places[object] = objects.len();
            }
            event = Event::Loaded {
                unit: 0,
                object: objects.len(),
            };
            objects.push(loaded);
        }
        events.push(event);
    }
    // What is in no file (symbols of the command line) was not loaded.
    for (object, left) in parts[0].iter_mut().enumerate() {
        if let Some(left) = left.take() {
            places[object] = objects.len();
            objects.push(left);
        }
    }
    let made = beforehand.made.iter().map(|object| places[*object]);
    let beforehand = Beforehand {
        made: made.collect(),
        ..beforehand.clone()
    };
    let mut application = Unit::new(
        UnitKind::Application,
        APPLICATION.to_owned(),
        objects,
        may_repeat,
        &beforehand,
    )?;
    application.reaches_by_slots = reaches_by_slots;
    Ok(Absorbed {
        application,
        events,
        beforehand,
        places,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::parse_args;

    fn is_library(line: &str, archive: &str) -> bool {
        is_library_in(&std::env::current_dir().unwrap(), line, archive)
    }

    fn is_library_in(here: &Path, line: &str, archive: &str) -> bool {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let request = parse_args(&arguments).unwrap();
        Origins::seen_from(&request, Some(here)).is_library(Path::new(archive))
    }

    #[test]
    fn libraries_are_those_of_systems_and_toolchains_and_those_that_are_named() {
        for (archive, expected) in [
            ("/usr/lib/x86_64-linux-gnu/libz.a", true),
            ("/usr/local/lib/libmine.a", true),
            (
                "/usr/lib/gcc/x86_64-linux-gnu/12/../../../x86_64-linux-gnu/libc.a",
                true,
            ),
            ("/opt/toolchain/lib/libc.a", true),
            (
                "/home/a/.rustup/toolchains/x/lib/rustlib/y/lib/libstd-1.rlib",
                true,
            ),
            ("/usr/src/app/libparts.a", false),
            ("/usr/local/src/app/libparts.a", false),
            ("/usrlocal/libparts.a", false),
            ("/home/a/app/libparts.a", false),
            ("libparts.a", false),
            ("build/../libparts.a", false),
        ] {
            assert_eq!(is_library("x.o", archive), expected, "{archive}");
            assert!(is_library("x.o --pool-libraries=all", archive));
        }
        for named in ["libparts.a", "-lparts", "build/libparts.a"] {
            let line = format!("x.o --pool-library {named}=parts@1");
            assert!(is_library(&line, "build/libparts.a"), "{named}");
        }
        assert!(!is_library(
            "x.o --pool-library libother.a=parts@1",
            "libparts.a"
        ));
    }

    #[test]
    fn objects_of_a_unikraft_build_are_libraries_by_their_name() {
        for (object, expected) in [
            ("build/libmusl.o", true),
            ("libkvmplat.o", true),
            ("build/libuklibid.o", false),
            ("build/apphello.o", false),
            ("build/libz.a", false),
        ] {
            let request = parse_args(&["x.o".to_owned()]).unwrap();
            let is_library =
                |is_unikraft| Origins::of(&request, is_unikraft).is_library(Path::new(object));
            assert_eq!(is_library(true), expected, "{object}");
            assert!(!is_library(false), "{object}");
        }
    }

    /// Build servers have their folders under /opt, where toolchains are, too.
    #[test]
    fn what_is_built_under_opt_is_the_programs() {
        let agent = Path::new("/opt/agent/work/build");
        for (archive, expected) in [
            ("/opt/agent/work/lib/libparts.a", false),
            ("/opt/agent/work/build/libparts.a", false),
            ("/opt/toolchain/lib/libc.a", true),
            ("/opt/agent2/lib/libc.a", true),
            ("/usr/lib/libz.a", true),
        ] {
            assert_eq!(is_library_in(agent, "x.o", archive), expected, "{archive}");
        }
        assert!(is_library_in(
            Path::new("/opt"),
            "x.o",
            "/opt/agent/lib/libparts.a"
        ));
    }

    /// So have containers below /usr.
    #[test]
    fn what_is_built_in_a_folder_of_its_own_below_usr_is_the_programs() {
        for (here, archive, expected) in [
            ("/usr/app/build", "/usr/app/lib/libparts.a", false),
            ("/usr/app/build", "/usr/application/libparts.a", true),
            ("/usr/app/build", "/usr/lib/libz.a", true),
            ("/usr/app", "/usr/local/lib/libz.a", true),
            ("/usr/local/app", "/usr/local/app/libparts.a", false),
            ("/usr/local/app", "/usr/local/lib/libz.a", true),
            // Somebody looks at what is there.
            (
                "/usr/lib/x86_64-linux-gnu",
                "/usr/lib/x86_64-linux-gnu/libz.a",
                true,
            ),
            ("/usr/local/lib", "/usr/local/lib/libz.a", true),
            ("/usr", "/usr/lib/libz.a", true),
        ] {
            let found = is_library_in(Path::new(here), "x.o", archive);
            assert_eq!(found, expected, "{archive}, seen from {here}");
        }
    }

    /// A toolchain may lie anywhere: its libraries lie beside its start files, or in the sysroot.
    #[test]
    fn a_toolchains_libraries_lie_with_its_start_files() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name).display().to_string();
        for name in [
            "tools/crt1.o",
            "root/lib/libc.a",
            "tools/libm.a",
            "app/liba.a",
        ] {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let (tools, sysroot) = (path("tools/crt1.o"), path("root"));
        assert!(is_library(&tools, &path("tools/libm.a")));
        assert!(!is_library(&tools, &path("app/liba.a")));
        assert!(!is_library(&path("app/x.o"), &path("app/liba.a")));
        let line = format!("x.o --sysroot={sysroot}");
        assert!(is_library(&line, &path("root/lib/libc.a")));
        assert!(!is_library(&line, &path("app/liba.a")));
        for (name, expected) in [
            ("crt1.o", true),
            ("/x/Scrt1.o", true),
            ("rcrt1.o", true),
            ("gcrt1.o", true),
            ("crtbeginT.o", true),
            ("crtendS.o", true),
            ("crtools.o", false),
            ("crti.o", true),
            ("start.o", false),
            ("crt1.c", false),
        ] {
            assert_eq!(is_start_file(Path::new(name)), expected, "{name}");
        }
    }
}
