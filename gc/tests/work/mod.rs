//! What a process does until it is killed or its power goes: it pushes, deletes, collects and writes checkpoints, and
//! notes in a journal what it was told is done. Now and then its index is said to be wrong for a while.

#![allow(unreachable_pub, reason = "included by several tests")]

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;

use pool_core::ObjectId;
use pool_core::name::ImageRef;
use pool_gc::CollectReport;
use pool_gc::history::{Cause, Collected, History};
use pool_store::Store;
use pool_store::format::DISTRUSTED_FILE;
use pool_store::manifest::TokenScope;
use pool_store::repair::{Remedy, repair};

use crate::collecting::collect_all;
use crate::common::{content, image_ref, open, push_image, read_object};

fn library(nth: u64) -> Vec<u8> {
    let mut bytes = content(7, 70);
    bytes.extend(content(300 + nth % 5, 30));
    bytes
}

fn file(nth: u64) -> Vec<u8> {
    content(5000 + nth, 120)
}

fn small(nth: u64) -> Vec<u8> {
    content(900_000 + nth, 3)
}

fn images(nth: u64) -> [ImageRef; 2] {
    ["i", "s"].map(|name| image_ref(&format!("{name}:{nth}")))
}

fn tokens(nth: u64) -> [String; 3] {
    [0, 1, 2].map(|of| format!("t{nth}-{of}"))
}

/// Works for ever, after what the journal tells of.
pub fn work(store: &Path, journal: &Path) -> ! {
    let known = read(&fs::read_to_string(journal).unwrap_or_default());
    let store = open(store);
    let mut lines = OpenOptions::new();
    let mut lines = lines.append(true).create(true).open(journal).unwrap();
    let mut note = |line: String| lines.write_all(line.as_bytes()).unwrap();
    let mut next = known.keys().last().map_or(0, |last| last + 1);
    let mut alive: Vec<u64> = known
        .into_iter()
        .filter_map(|(nth, alive)| alive.then_some(nth))
        .collect();
    let distrusted = store.directory().join(DISTRUSTED_FILE);
    loop {
        if next % 4 == 1 {
            fs::write(&distrusted, b"").unwrap();
        } else if let Err(error) = fs::remove_file(&distrusted) {
            assert_eq!(error.kind(), ErrorKind::NotFound);
        }
        let used = format!("l{}@1", next % 5);
        let libraries = [(used.as_str(), library(next))];
        let libraries = libraries
            .each_ref()
            .map(|(name, bytes)| (*name, bytes.as_slice()));
        // At once, so that some of them are made durable as one.
        std::thread::scope(|scope| {
            scope.spawn(|| push_image(&store, &format!("s:{next}"), &small(next), &[]).unwrap());
            for token in tokens(next) {
                let (store, secret) = (&store, ObjectId::of(b"secret"));
                scope.spawn(move || store.add_token(&token, secret, TokenScope::Read).unwrap());
            }
            push_image(&store, &format!("i:{next}"), &file(next), &libraries).unwrap();
        });
        note(format!("+{next}\n"));
        alive.push(next);
        next += 1;
        if alive.len() > 4 {
            let nth = alive.remove((next % 4) as usize);
            note(format!("-{nth}\n"));
            for image in images(nth) {
                store.delete_image(&image).unwrap();
            }
        }
        // Of the index, and while that is not trusted of the journal.
        if next.is_multiple_of(3) {
            assert!(store.checkpoint().unwrap());
        }
        if store.distrusts_index() {
            // Nothing is collected meanwhile.
            continue;
        }
        collect_all(&store);
        let mut history = History::read(store.directory());
        let collected = Ok(CollectReport::default());
        history.add(Collected::of(next, Cause::Asked, &collected));
        history.write(store.directory()).unwrap();
        note(format!("h{next}\n"));
    }
}

/// Images pushed, and whether their deletion was never begun.
fn read(journal: &str) -> BTreeMap<u64, bool> {
    let mut images = BTreeMap::new();
    for (sign, nth) in lines(journal) {
        if sign != "h" {
            images.insert(nth, sign == "+");
        }
    }
    images
}

/// What the journal tells of, and of which round.
fn lines(journal: &str) -> impl Iterator<Item = (&str, u64)> {
    let lines = journal.lines().map(|line| line.split_at(1));
    lines.map(|(sign, nth)| (sign, nth.parse().unwrap()))
}

/// Loses the index of a closed store and has it made anew. Answers with what is missing then, if anything.
pub fn check_rebuilt(store: &Path, journal: &str) -> Result<(), String> {
    fs::remove_dir_all(store.join("index")).map_err(|error| error.to_string())?;
    let report = repair(store, false, &mut |_| ()).map_err(|error| error.to_string())?;
    if report.remedy != Remedy::Index || !report.damaged_objects.is_empty() {
        return Err(format!("{report:#?}"));
    }
    check(&open(store), journal)
}

/// What is missing of all that the journal tells of, if anything.
pub fn check(store: &Store, journal: &str) -> Result<(), String> {
    let collected = lines(journal).filter_map(|(sign, nth)| (sign == "h").then_some(nth));
    let history = History::read(store.directory());
    let newest = history.last.first().map(|collected| collected.begun_at);
    if newest < collected.last() {
        return Err(format!("the history of collections ends with {newest:?}"));
    }
    let known = store.tokens().map_err(|error| error.to_string())?;
    for (nth, alive) in read(journal) {
        let is_there = |token: &String| known.iter().any(|found| found.name == *token);
        if let Some(token) = tokens(nth).into_iter().find(|token| !is_there(token)) {
            return Err(format!("token {token} is gone"));
        }
        if !alive {
            continue;
        }
        for image in images(nth) {
            let found = store.image(&image).map_err(|error| error.to_string())?;
            if found.is_none() {
                return Err(format!("image {image} is gone"));
            }
        }
        for bytes in [file(nth), library(nth), small(nth)] {
            if read_object(store, ObjectId::of(&bytes)) != bytes {
                return Err(format!("a content of images {nth} is another"));
            }
        }
    }
    Ok(())
}
