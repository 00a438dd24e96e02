//! Real static executables: described, loaded, minified, put together again.

mod common;

use std::collections::BTreeMap;

use common::memory::{assert_same, described, executed, interpreted};
use common::programs::programs;
use pool_core::description::{Description, Layout, Range, RangeKind};
use pool_image::describe::{ObjectRole, describe};
use pool_image::elf::{ExecutableKind, INDEPENDENT_BASE};
use pool_image::extract::extract;
use pool_image::inspect::inspect;
use pool_image::minify::{minify, restore};

#[test]
fn loading_by_the_description_is_loading_as_linux_does() {
    for program in &programs().all {
        let image = describe(&program.bytes).unwrap_or_else(|e| panic!("{}: {e}", program.name));
        let memory = described(&image);
        assert_same(program.name, &memory, &interpreted(&program.bytes));
        let lowest = *memory.keys().next().unwrap();
        match executed(&program.path, lowest) {
            Some(linux) => assert_same(program.name, &memory, &linux),
            None => panic!("{}: Linux does not execute it", program.name),
        }
    }
}

#[test]
fn descriptions_say_what_the_file_is() {
    for program in &programs().all {
        let image = describe(&program.bytes).unwrap();
        let description = &image.description;
        let json = description.to_json();
        assert_eq!(Description::from_json(&json).unwrap(), *description);
        let independent = program.name.contains("pie");
        assert_eq!(
            image.kind == ExecutableKind::StaticPie,
            independent,
            "{}",
            program.name
        );
        let bias = if independent { INDEPENDENT_BASE } else { 0 };
        assert_eq!(description.load_bias, bias, "{}", program.name);
        assert_eq!(description.layout, Layout::Own);
        // `ld -N` leaves the headers out of memory.
        let mapped = description.program_headers.is_some_and(|headers| {
            let holds = |r: &Range| (r.address..r.end()).contains(&headers.address);
            description.ranges.iter().any(holds)
        });
        assert_eq!(mapped, program.name != "musl-one-segment");
        assert_eq!(
            image.stripped,
            program.name.contains("stripped") || program.name == "busybox",
            "{}",
            program.name
        );
        for object in &image.objects {
            assert_eq!(object.id, object.content.digest(), "{}", program.name);
        }
        let phases = description.objects();
        for object in image.objects.iter().filter(|o| o.role != ObjectRole::File) {
            assert_eq!(phases[&object.id], object.phase, "{}", program.name);
        }
    }
}

#[test]
fn minified_plus_pool_is_the_file() {
    for program in &programs().all {
        let image = describe(&program.bytes).unwrap();
        let minified = minify(&image);
        let pool: BTreeMap<_, _> = image
            .objects
            .iter()
            .filter(|object| object.role == ObjectRole::Code)
            .map(|object| (object.id, object.content.bytes()))
            .collect();
        let restored = restore(&minified, |id| pool.get(id)).unwrap();
        assert!(restored == program.bytes, "{}", program.name);
        let code = pool.values().map(|c| c.len()).sum::<usize>();
        assert!(
            minified.len() < program.bytes.len() - code + code / 8 + 8192,
            "{}: {} of {} bytes are left, {code} are read-only",
            program.name,
            minified.len(),
            program.bytes.len()
        );
    }
}

#[test]
fn reports_add_up() {
    for program in &programs().all {
        let image = describe(&program.bytes).unwrap();
        let report = inspect(&image);
        let pages = report.pages;
        assert_eq!(
            pages.total,
            pages.shared + pages.private + pages.bss,
            "{}",
            program.name
        );
        let zero_ranges: u64 = image
            .description
            .ranges
            .iter()
            .filter(|r| r.kind == RangeKind::Zero)
            .map(|r| r.length / 4096)
            .sum();
        assert_eq!(pages.bss.0, zero_ranges, "{}", program.name);
        assert!(pages.distinct.0 > 0 && pages.distinct.0 + pages.zero.0 <= pages.total.0);
        let text = report.to_string();
        assert!(text.contains(&report.entry.to_string()), "{text}");
        assert!(serde_json::to_vec(&report).is_ok());
        let files = extract(&image);
        assert!(files.iter().any(|f| f.name == "data"), "{}", program.name);
        println!("{}\n{text}", program.name);
    }
}
