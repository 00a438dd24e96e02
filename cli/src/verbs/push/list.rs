//! What a list says is to be pushed, and pushing it: several files at a time, by one process.
//!
//! A push is durable when it is answered, so one after the other each waits for the disk, and for what the next one would do meanwhile.
//! Side by side they share that (the service makes those that come at once durable together), connections, and a start of this program.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::num::NonZero;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, bail};
use pool_api::client::PushReport;
use pool_core::name::{Named, Referent};
use pool_core::page::PAGE_SIZE;
use serde::Serialize;

use super::IsThere;
use crate::output::{self, Column};

/// What one line of a list says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The name that the file is to have.
    pub(super) name: Named,
    pub(super) file: PathBuf,
}

/// Reads a list: a name and a file on each line, as in `image/app:v1 build/app.elf`. Lines without anything, and those that begin with
/// `#`, say nothing.
pub(super) fn parse(list: &[u8]) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut lines = HashMap::new();
    for (number, line) in (1..).zip(list.split(|byte| *byte == b'\n')) {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let entry = entry(line).with_context(|| format!("line {number}"))?;
        if let Some(other) = lines.insert(entry.name.clone(), number) {
            bail!(
                "line {number}: {} is to be what line {other} says: give each name once",
                entry.name
            );
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn entry(line: &[u8]) -> Result<Entry> {
    let end = line.iter().position(u8::is_ascii_whitespace);
    let Some((name, file)) = end.map(|end| line.split_at(end)) else {
        bail!("it has no file: write a name and a file, as in \"image/app:v1 build/app.elf\"");
    };
    let name = String::from_utf8_lossy(name);
    let named = match name.parse() {
        Ok(Referent::Image(image)) => Named::Image(image),
        Ok(Referent::Library(library)) => Named::Library(library),
        Ok(_) => bail!("{name} is no name: write image/NAME:TAG or lib/NAME@VERSION"),
        Err(error) => bail!("{error}"),
    };
    let file = Path::new(OsStr::from_bytes(file.trim_ascii()));
    if file == Path::new("-") {
        bail!("standard input is no file of a list: write ./- for a file of that name");
    }
    Ok(Entry {
        name: named,
        file: file.to_path_buf(),
    })
}

/// What became of an entry.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    name: String,
    file: String,
    #[serde(flatten)]
    result: Done,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Done {
    Pushed(PushReport),
    /// The name is in the pool already, and only new ones were asked for: what is to be said of that.
    IsThere(String),
    /// Why it was not.
    Failed(String),
}

impl Outcome {
    /// Why it was not pushed, for people.
    fn failure(&self) -> Option<String> {
        match &self.result {
            Done::Pushed(_) | Done::IsThere(_) => None,
            Done::Failed(why) => Some(format!("{}: {why}", self.name)),
        }
    }
}

/// Pushes entries by `push`, `jobs` of them at a time, in their order. After one that fails, none is begun any more, unless
/// `keep_going`. Those that were begun are answered with, in the list's order. `done` is told after each how many are.
pub(super) fn push_all(
    entries: &[Entry],
    jobs: NonZero<usize>,
    keep_going: bool,
    push: impl Fn(&Entry) -> Result<PushReport> + Sync,
    done: impl Fn(usize) + Sync,
) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let outcomes = Mutex::new(Vec::new());
    let work = || {
        while keep_going || !failed.load(Ordering::Relaxed) {
            let nth = next.fetch_add(1, Ordering::Relaxed);
            let Some(entry) = entries.get(nth) else {
                break;
            };
            let result = match push(entry) {
                Ok(report) => Done::Pushed(report),
                Err(error) if error.is::<IsThere>() => Done::IsThere(error.to_string()),
                Err(error) => Done::Failed(output::causes(&error)),
            };
            let outcome = Outcome {
                name: entry.name.to_string(),
                file: entry.file.display().to_string(),
                result,
            };
            if outcome.failure().is_some() {
                failed.store(true, Ordering::Relaxed);
            }
            let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
            outcomes.push((nth, outcome));
            done(outcomes.len());
        }
    };
    thread::scope(|scope| {
        for _ in 1..jobs.get().min(entries.len()) {
            scope.spawn(work);
        }
        work();
    });
    let mut outcomes = outcomes
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_unstable_by_key(|(nth, _)| *nth);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// A line for each that was pushed.
pub(super) fn table(outcomes: &[Outcome]) -> String {
    let columns = [
        Column::Text("PUSHED"),
        Column::Number("PAGES"),
        Column::Number("NEW"),
        Column::Number("SENT"),
        Column::Number("CODE+DATA"),
        Column::Number("SYMBOLS"),
    ];
    // As a single push says it: what the guest has in memory apart from what the file has beside it.
    let of_pages = |pages: u64| output::bytes(pages * PAGE_SIZE);
    let rows = outcomes.iter().filter_map(|outcome| match &outcome.result {
        Done::Pushed(report) => Some(vec![
            outcome.name.clone(),
            report.summary.pages.to_string(),
            report.summary.new_pages.to_string(),
            output::bytes(report.sent_bytes),
            of_pages(report.sent_memory_pages),
            of_pages(report.sent_symbol_pages),
        ]),
        Done::IsThere(_) | Done::Failed(_) => None,
    });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return String::new();
    }
    output::table(&columns, &rows)
}

/// What is to be said of a list of which something was not pushed.
pub(super) fn failure(outcomes: &[Outcome], entries: usize) -> Option<String> {
    let failures: Vec<_> = outcomes.iter().filter_map(Outcome::failure).collect();
    let first = failures.first()?;
    let left = entries - outcomes.len();
    let says = match failures.len() {
        1 => first.clone(),
        count => format!("{count} of {entries} were not pushed, {first} the first"),
    };
    Some(match left {
        0 => says,
        left => format!("{says}; {left} more of the list were not begun (--keep-going)"),
    })
}

/// What is to be said of those names of a list that are in the pool already.
pub(super) fn those_there(outcomes: &[Outcome]) -> Option<String> {
    let mut there = outcomes.iter().filter_map(|outcome| match &outcome.result {
        Done::IsThere(says) => Some((&outcome.name, says)),
        Done::Pushed(_) | Done::Failed(_) => None,
    });
    let (first, says) = there.next()?;
    Some(match there.count() {
        0 => says.clone(),
        others => format!(
            "{} of {} are in the pool already, and were not pushed (--only-new), {first} the first",
            others + 1,
            outcomes.len()
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(list: &str) -> Vec<(String, String)> {
        let entries = parse(list.as_bytes()).unwrap().into_iter();
        let told = |entry: Entry| (entry.name.to_string(), entry.file.display().to_string());
        entries.map(told).collect()
    }

    #[test]
    fn a_line_is_a_name_and_a_file() {
        let list = "# what CI made\n\nimage/app:v1 build/app.elf\r\n\tlib/zlib@1.3\t  with a space.pages  \nlib/z@1 #x";
        let expected = [
            ("image/app:v1", "build/app.elf"),
            ("lib/zlib@1.3", "with a space.pages"),
            ("lib/z@1", "#x"),
        ];
        let expected = expected.map(|(name, file)| (name.to_owned(), file.to_owned()));
        assert_eq!(entries(list), expected);
        assert_eq!(entries(""), []);
        let odd = parse(b"lib/z@1 \xff\xfe").unwrap();
        assert_eq!(odd[0].file.as_os_str().as_bytes(), b"\xff\xfe");
    }

    #[test]
    fn what_a_line_cannot_be_is_told_with_its_number() {
        for (list, says) in [
            ("lib/z@1", "line 1: it has no file"),
            ("\nimage/a:v1 -", "line 2: standard input"),
            ("app.elf image/a:v1", "line 1: "),
            ("segments/1 x", "line 1: "),
            ("image/a x", "line 1: "),
            (
                "lib/z@1 a\n# b\nlib/z@1 c",
                "line 3: lib/z@1 is to be what line 1 says",
            ),
        ] {
            let error = output::causes(&parse(list.as_bytes()).unwrap_err());
            assert!(error.contains(says), "{list:?}: {error}");
        }
    }

    fn report() -> PushReport {
        let summary = serde_json::json!({
            "created": true, "target": "", "object": "0".repeat(64), "pages": 9, "known_pages": 0,
            "zero_pages": 0, "distinct_pages": 9, "new_pages": 5, "written_pages": 5,
            "new_windows": 0, "shared_windows": 0, "received_bytes": 0,
        });
        PushReport {
            summary: serde_json::from_value(summary).unwrap(),
            file_bytes: 9 * PAGE_SIZE,
            sent_bytes: 5 * PAGE_SIZE + 512,
            sent_pages: 5,
            sent_memory_pages: 2,
            sent_symbol_pages: 3,
            unsent_pages: 4,
        }
    }

    #[test]
    fn a_line_tells_code_from_symbols() {
        let outcome = |name: &str, result| Outcome {
            name: name.into(),
            file: String::new(),
            result,
        };
        let failed = outcome("lib/a@1", Done::Failed("why".into()));
        assert_eq!(table(std::slice::from_ref(&failed)), "");
        let told = table(&[outcome("lib/z@1", Done::Pushed(report())), failed]);
        let words: Vec<Vec<_>> = told
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            words,
            [
                "PUSHED PAGES NEW SENT CODE+DATA SYMBOLS",
                "lib/z@1 9 5 20.5 KiB 8.0 KiB 12.0 KiB"
            ]
            .map(|line| line.split(' ').collect::<Vec<_>>())
        );
    }

    #[test]
    fn what_is_there_is_no_failure_of_the_others() {
        let list = "lib/there@1 x\nlib/b@1 b\nlib/there@2 x\nlib/d@1 d";
        let told = |fails| {
            let outcomes = outcomes(list, 1, false, fails);
            (
                outcomes.len(),
                failure(&outcomes, 4),
                those_there(&outcomes),
            )
        };
        let there = "2 of 4 are in the pool already, and were not pushed (--only-new), lib/there@1 the first";
        assert_eq!(told("none"), (4, None, Some(there.to_owned())));
        let (begun, failure, _) = told("b");
        assert_eq!(begun, 2);
        let failure = failure.unwrap();
        assert!(
            failure.starts_with("lib/b@1: it is not to be; 2 more"),
            "{failure}"
        );
        let json = serde_json::to_value(outcomes(list, 1, false, "none")).unwrap();
        assert_eq!(json[0]["is-there"], "it is there", "{json}");
        assert_eq!(those_there(&outcomes("lib/b@1 b", 1, false, "none")), None);
    }

    fn outcomes(list: &str, jobs: usize, keep_going: bool, fails: &str) -> Vec<Outcome> {
        let entries = parse(list.as_bytes()).unwrap();
        let push = |entry: &Entry| {
            if entry.name.to_string().contains("there") {
                bail!(IsThere("it is there".into()));
            }
            if entry.file == Path::new(fails) {
                bail!("it is not to be");
            }
            Ok(report())
        };
        let most = AtomicUsize::new(0);
        let done = |count| {
            most.fetch_max(count, Ordering::Relaxed);
        };
        let jobs = NonZero::new(jobs).unwrap();
        let outcomes = push_all(&entries, jobs, keep_going, push, done);
        assert_eq!(most.into_inner(), outcomes.len());
        outcomes
    }

    fn pushed(list: &str, jobs: usize, keep_going: bool, fails: &str) -> (Vec<String>, String) {
        let outcomes = outcomes(list, jobs, keep_going, fails);
        let entries = list.lines().count();
        let failure = failure(&outcomes, entries).unwrap_or_default();
        let names = outcomes.into_iter().map(|outcome| outcome.name);
        (names.collect(), failure)
    }

    #[test]
    fn a_failure_ends_a_list_unless_it_is_to_go_on() {
        let list = "lib/a@1 a\nlib/b@1 b\nlib/c@1 c\nlib/d@1 d";
        let all = ["lib/a@1", "lib/b@1", "lib/c@1", "lib/d@1"];
        for jobs in [1, 3, 9] {
            let (names, failure) = pushed(list, jobs, false, "none");
            assert_eq!((&names[..], &failure[..]), (&all.map(String::from)[..], ""));
            let (names, failure) = pushed(list, jobs, true, "b");
            assert_eq!(names, all);
            assert_eq!(failure, "lib/b@1: it is not to be");
        }
        let (names, failure) = pushed(list, 1, false, "b");
        assert_eq!(names, all[..2]);
        assert_eq!(
            failure,
            "lib/b@1: it is not to be; 2 more of the list were not begun (--keep-going)"
        );
    }
}
