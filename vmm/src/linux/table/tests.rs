//! What the table says of itself.

use std::fmt::Write as _;

use super::*;

#[test]
fn calls_are_sorted_so_that_they_can_be_found() {
    assert!(LIST.is_sorted_by(|a, b| a.number < b.number));
    assert_eq!(calls().len(), LIST.len());
    for (number, (listed, call)) in LIST.iter().zip(calls()).enumerate() {
        assert_eq!(find(call.number), Some(number));
        assert_eq!((call.number, call.name), (listed.number, listed.name));
        assert_eq!((call.topic, call.process), (listed.topic, listed.process));
        let same = match (call.server, listed.server) {
            (Server::Host(kinds), Server::Host(listed))
            | (Server::Disk(kinds), Server::Disk(listed)) => kinds == listed,
            (Server::Monitor(handler), Server::Monitor(listed)) => {
                std::ptr::fn_addr_eq(handler, listed)
            }
            (Server::ProcessOnly, Server::ProcessOnly) => true,
            _ => false,
        };
        assert!(same, "{call:?}");
    }
    assert_eq!(find(335), None);
    assert_eq!(find(0x1_0000), None, "no call by its lower bits");
}

fn served(server: Server) -> String {
    match server {
        Server::Host(kinds) | Server::Disk(kinds) => {
            let words: Vec<String> = kinds.iter().map(|kind| format!("{kind:?}")).collect();
            words.join(", ")
        }
        Server::Monitor(_) => "monitor".to_owned(),
        Server::ProcessOnly => "-".to_owned(),
    }
}

/// `POOL_BLESS=1` writes the table into the document.
#[test]
fn the_document_lists_exactly_these_calls() {
    const HEAD: &str =
        "| number | call | topic | under KVM | as a process |\n|---|---|---|---|---|\n";
    let path = pool_tests::source_directory().join("vmm/SYSCALLS.md");
    let document = std::fs::read_to_string(&path).unwrap();
    let mut table = HEAD.to_owned();
    for call in calls() {
        let (number, name) = (call.number, call.name);
        let (topic, process) = (call.topic, call.process);
        let served = served(call.server);
        writeln!(
            table,
            "| {number} | `{name}` | {topic:?} | {served} | {process} |"
        )
        .unwrap();
    }
    let start = document.find(HEAD).expect("the document has the table");
    let length = document[start..]
        .find("\n\n")
        .map_or(document.len() - start, |at| at + 1);
    let found = &document[start..start + length];
    if found != table && std::env::var_os("POOL_BLESS").is_some() {
        std::fs::write(path, document.replace(found, &table)).unwrap();
    } else {
        assert_eq!(found, table, "run this test with POOL_BLESS=1");
    }
}

#[test]
fn what_waits_for_a_disk_follows_no_pointer() {
    for call in calls() {
        if let Server::Disk(kinds) = call.server {
            let numbers = [Arg::Value, Arg::Descriptor];
            assert!(
                kinds.iter().all(|kind| numbers.contains(kind)),
                "{}",
                call.name
            );
        }
    }
}
