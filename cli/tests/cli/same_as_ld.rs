//! A link that succeeds behaves as ld's does, or it is refused by name.
//!
//! Each folder of `tests/same_as_ld` is a program that is built by its `build.sh`, which takes what is in
//! `B` as further arguments of the compiler: with the system's linker, with `pool` in its place and all archives as
//! libraries, and, if it makes archives, with these as part of the program; then in one of the other layouts. All builds and
//! runs must say the same and end the same.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use pool_image::layout::LayoutKind;
use pool_tests::source_directory;

/// What `pool` does not link, and says so: what stands in its message.
const REFUSED: [(&str, &str); 9] = [
    ("align_4m", "alignment 4194304"),
    ("data_start_end", "_end"),
    ("merge_orphan", "merged"),
    ("named_writable_and_executable", "sections .both"),
    ("opt_script_T", "linker script"),
    ("opt_script_frames", "in one piece"),
    ("opt_script_insert_library", "library's pages"),
    ("twice_whole", "already"),
    ("wx_section", "writable and executable"),
];

/// What ld does not link either; `clang_profile` where clang's own library for it is not installed.
const FAULTY: [&str; 11] = [
    "bss_3g_medium",
    "clang_profile",
    "discarded_ref",
    "dup_obj",
    "lto_undefined",
    "named_object_foreign",
    "opt_require_defined_missing",
    "tls_mismatch",
    "tls_without_call",
    "whole_foreign",
    "whole_shared_library",
];

#[derive(Debug, Default, PartialEq, Eq)]
struct Made {
    built: bool,
    /// What the build said, where it failed.
    says: String,
    status: Option<i32>,
    output: String,
}

/// How a program is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Ld,
    /// By ld, without what nothing needs.
    LdCollects,
    /// By `pool`, all archives being libraries.
    Libraries,
    /// By `pool`, its archives being part of it.
    Own,
    /// By `pool`, all archives being libraries where the layout has some.
    Layout(LayoutKind),
}

/// Each program is made in one of these, too; the last is for those that do not say themselves what is left out.
const LAYOUTS: [LayoutKind; 3] = [LayoutKind::Default, LayoutKind::Spacer, LayoutKind::Dce];
/// What ld is asked for where that layout leaves out what nothing needs.
const COLLECTS: &str = "-Wl,--gc-sections";

/// Builds and runs the program in `folder`, a copy of its own.
fn make(folder: &Path, linker: &Path, mode: Mode) -> Made {
    let pool = format!("-B{}/", linker.display());
    let options = match mode {
        Mode::Ld => String::new(),
        Mode::LdCollects => COLLECTS.to_owned(),
        Mode::Libraries => format!("{pool} -Wl,--pool-libraries=all"),
        Mode::Own => pool,
        Mode::Layout(kind) => {
            format!(
                "{pool} -Wl,--pool-libraries=all,--pool-layout={}",
                kind.name()
            )
        }
    };
    let build = Command::new("bash")
        .args(["-e", "./build.sh"])
        .current_dir(folder)
        .env("B", options)
        .env("LDDIR", linker)
        .env("POOL_REGISTRY", linker.join("addresses.json"))
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !build.status.success() {
        return Made {
            says: text(&build.stdout) + &text(&build.stderr),
            ..Made::default()
        };
    }
    let run = Command::new("timeout")
        .args(["60", "./prog"])
        .current_dir(folder)
        .output()
        .unwrap();
    Made {
        built: true,
        says: String::new(),
        status: run.status.code(),
        output: text(&run.stdout) + &text(&run.stderr),
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Compares every program of which the place in the list has the remainder `nth` of `of`.
fn compare(nth: usize, of: usize) {
    let folder = source_directory().join("cli/tests/same_as_ld");
    let mut names: Vec<String> = fs::read_dir(folder.as_path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.len() > 120, "{} programs", names.len());
    let refused: BTreeMap<&str, &str> = REFUSED.into_iter().collect();
    let work = tempfile::tempdir().unwrap();
    let linker = work.path().join("linker");
    fs::create_dir(&linker).unwrap();
    symlink(env!("CARGO_BIN_EXE_pool"), linker.join("ld")).unwrap();
    let mut wrong = Vec::new();
    for name in names.iter().skip(nth).step_by(of) {
        let built = |mode: Mode| {
            let copied = work.path().join(format!("{mode:?}")).join(name);
            copy(&folder.join(name), &copied);
            make(&copied, &linker, mode)
        };
        let reference = built(Mode::Ld);
        let expected = refused.get(name.as_str());
        let script = fs::read_to_string(folder.join(name).join("build.sh")).unwrap();
        let has_own = script.contains("ar ");
        let layouts = if script.contains("gc-sections") {
            &LAYOUTS[..2]
        } else {
            &LAYOUTS[..]
        };
        // By its name alone, so that a further program changes nothing for the others.
        let layout = layouts[name.bytes().map(usize::from).sum::<usize>() % layouts.len()];
        let mut modes = vec![Mode::Libraries, Mode::Layout(layout)];
        if has_own {
            modes.push(Mode::Own);
        }
        let collected = (layout == LayoutKind::Dce).then(|| built(Mode::LdCollects));
        // Where ld wants no more than an object it takes no such option.
        let collected = collected.filter(|collected| collected.built);
        for mode in modes {
            let found = built(mode);
            let has_libraries = matches!(mode, Mode::Libraries | Mode::Layout(LayoutKind::Spacer));
            let reference = match (&collected, mode) {
                (Some(collected), Mode::Layout(_)) => collected,
                _ => &reference,
            };
            let is_right = match (expected, found.built) {
                (Some(words), false) => reference.built && found.says.contains(words),
                // What stands in the way of a library's pages stands in nobody's way here.
                (Some(_), true) => !has_libraries && found == *reference,
                // Where ld refuses it, so do we; each in its own words.
                (None, false) => !reference.built && FAULTY.contains(&name.as_str()),
                (None, true) => found == *reference,
            };
            if !is_right {
                wrong.push(format!(
                    "{name}, {mode:?}: ld {reference:?}\n  pool {found:?}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_first_quarter_of_programs_is_as_ld_makes_it() {
    compare(0, 4);
}

#[test]
fn a_second_quarter_of_programs_is_as_ld_makes_it() {
    compare(1, 4);
}

#[test]
fn a_third_quarter_of_programs_is_as_ld_makes_it() {
    compare(2, 4);
}

#[test]
fn a_fourth_quarter_of_programs_is_as_ld_makes_it() {
    compare(3, 4);
}
