use super::*;
use proptest::prelude::*;

fn read(text: &str) -> Result<Tables, String> {
    let mut tables = Tables::default();
    let read = tables.read("x.ld", text);
    read.map(|()| tables).map_err(|error| error.to_string())
}

fn provided(name: &str) -> Symbol {
    Symbol {
        name: name.to_owned(),
        is_provided: true,
    }
}

fn symbol(name: &str) -> Symbol {
    Symbol {
        is_provided: false,
        ..provided(name)
    }
}

#[test]
fn inserted_tables_are_read() {
    let tables = read(
        "/* tables */ SECTIONS { .init_table : ALIGN(16) { init_start = .; KEEP(*(SORT(.init_table.*))) \
         KEEP(*(.init_table .late)); . = ALIGN(0x8); PROVIDE(init_end = .); } .more : { *(.more*) } } \
         INSERT AFTER .data; SECTIONS { extra ALIGN(1 << 6) : { *(extra) } } INSERT BEFORE .bss",
    )
    .unwrap();
    let names: Vec<(&str, u64)> = tables
        .all
        .iter()
        .map(|t| (t.name.as_str(), t.alignment))
        .collect();
    assert_eq!(names, [(".init_table", 16), (".more", 1), ("extra", 64)]);
    let place = |name: &str| {
        tables
            .place(name)
            .map(|p| (p.table, p.statement, p.is_sorted, p.keeps))
    };
    assert_eq!(place(".init_table.10"), Some((0, 1, true, true)));
    assert_eq!(place(".init_table"), Some((0, 2, false, true)));
    assert_eq!(place(".more.x"), Some((1, 0, false, false)));
    assert_eq!(place(".data"), None);
    assert_eq!(
        tables.symbols().collect::<Vec<_>>(),
        [("init_start", "x.ld")]
    );
    assert_eq!(
        tables.all[0].statements[3..],
        [Statement::Align(8), Statement::Symbol(provided("init_end"))][..]
    );
    assert!(!tables.are_of_unikraft());
}

#[test]
fn symbols_between_sections_belong_to_what_they_stand_at() {
    let tables = read(
        "SECTIONS { . = ALIGN((1 << 12)); f_start = .; .eh_frame : { KEEP(*(.eh_frame)) KEEP(*(.eh_frame.*)) } f_end = .;\n\
         . = ALIGN(4K); a_start = .; .a : { KEEP(*(SORT_BY_NAME(.a[0-9]))) } a_end = .; b_start = .; .b : { *(.b) } \
         b_end = .; . = ALIGN(64); t_start = .; .tdata : { *(.tdata) *(.tdata.*) *(.gnu.linkonce.td.*) } t_mid = .; \
         .tbss : { *(.tbss) *(.tbss.*) } t_end = . + SIZEOF(.tbss); }\nINSERT BEFORE .rodata\n\
         SECTIONS { . = ALIGN(8); .uk_bootinfo : { KEEP(*(.uk_bootinfo)) } } INSERT AFTER .data",
    )
    .unwrap();
    let chains: Vec<&[Link]> = tables.chains.iter().map(|c| &c.links[..]).collect();
    let first = [
        Link::Align(4096),
        Link::Symbol(symbol("a_start")),
        Link::Table(0),
        Link::Symbol(symbol("a_end")),
        Link::Symbol(symbol("b_start")),
        Link::Table(1),
        Link::Symbol(symbol("b_end")),
    ];
    assert_eq!(chains, [&first[..], &[Link::Align(8), Link::Table(2)][..]]);
    let beside: Vec<_> = tables
        .beside
        .iter()
        .map(|b| (b.symbol.name.as_str(), b.border))
        .collect();
    assert_eq!(
        beside,
        [
            ("t_end", Some(ThreadBorder::End)),
            ("f_start", None),
            ("f_end", None),
            ("t_start", Some(ThreadBorder::Start)),
            ("t_mid", Some(ThreadBorder::Stored)),
        ]
    );
    assert!(tables.have_thread_borders() && tables.are_of_unikraft());
    assert_eq!(tables.symbols().count(), 9);
}

#[test]
fn what_is_not_followed_is_named() {
    let inserted = |inside: &str| format!("SECTIONS {{\n{inside} }} INSERT AFTER .data;");
    for (text, words) in [
        (
            "SECTIONS { .x : { *(.x) } }".to_owned(),
            "x.ld:1: SECTIONS without INSERT",
        ),
        ("\n\nMEMORY { }".to_owned(), "x.ld:3: \"MEMORY\""),
        (inserted(".x 0x1000 : { *(.x) }"), "x.ld:2: \"0x1000\""),
        (inserted(".x : { x.o(.x) }"), "x.o"),
        (inserted(".x : {\nLONG(1) }"), "x.ld:3: \"LONG\""),
        (inserted(".x : { a = . + 4; }"), "+"),
        (inserted(".x : { . += 4; }"), "\"+\""),
        (inserted(".x : { *(EXCLUDE_FILE (a) .x) }"), "EXCLUDE_FILE"),
        (inserted(".x : { *(COMMON) }"), "COMMON"),
        (inserted(".x : { . = ALIGN(3); }"), "ALIGN(3)"),
        (inserted(".x : { . = ALIGN(a); }"), "ALIGN(a)"),
        (inserted(".x : { . = 0x1000; }"), "\"0x1000\""),
        (inserted(". = 0x1000;"), "\"0x1000\""),
        (inserted(".x : { *(.x) } >ram"), ">ram"),
        (inserted(".x : { *(.x) } :data"), "\":\""),
        (inserted("a = 5;"), "\"5\""),
        (inserted("ASSERT(1, \"x\")"), "ASSERT"),
        (inserted("/DISCARD/ : { *(.x) }"), "/DISCARD/"),
        (inserted(".tdata : { *(.tdata.mine) }"), ".tdata"),
        (inserted(".tdata : { *(.tdata .tdata.* .other) }"), ".other"),
        (inserted(".tbss : { a = .; *(.tbss .tbss.*) }"), ".tbss"),
        (inserted("a = . + SIZEOF(.tbss);"), "SIZEOF(.tbss)"),
        (inserted("a = . + SIZEOF(.bss);"), "\".bss\""),
        ("SECTIONS { .x : { *(.x) ".to_owned(), "its end"),
        ("SECTIONS { .x : { } } INSERT AFTER".to_owned(), "its end"),
        (
            "SECTIONS { .x : { } } INSERT AFTER .y".to_owned(),
            "not found for insert",
        ),
        (
            "SECTIONS { .x : { } } INSERT AFTER .tdata".to_owned(),
            "between .tdata",
        ),
        (
            inserted(".x : { }") + "\nSECTIONS { .y : { } } INSERT AFTER .x",
            "x.ld:3: INSERT AFTER .x",
        ),
        ("INSERT AFTER .data".to_owned(), "INSERT without SECTIONS"),
        (
            inserted(".tdata : ALIGN(64) { *(.tdata*) }"),
            "ALIGN(64) of section .tdata",
        ),
        (
            inserted(".tbss ALIGN(64) : { *(.tbss*) }"),
            "ALIGN(64) of section .tbss",
        ),
        (inserted(".x : { *(SORT(.x.*) .y) }"), "in one statement"),
        (inserted(".x : { *(.y SORT(.x.*)) }"), "in one statement"),
        (inserted("a = .; .x : { a = .; }"), "second symbol a"),
        (
            inserted(".x : { PROVIDE(a = .); PROVIDE(a = .); }"),
            "second symbol a",
        ),
        (inserted(".x : { } _end = .;"), "symbol _end"),
        (
            "\"\" ".to_owned() + &inserted(".x : { }"),
            "x.ld:1: \"\\\"\\\"\"",
        ),
        (
            inserted(".x : { }") + "\n\"\" MEMORY",
            "x.ld:3: \"\\\"\\\"\"",
        ),
        (
            inserted(".x : { }") + "\n/* open",
            "x.ld:3: a comment without an end",
        ),
        (
            inserted(".x : { }") + "\n\"open",
            "x.ld:3: a quoted name without an end",
        ),
        (inserted(".x : { . = ALIGN(64) }"), "where \";\" is wanted"),
        (inserted(".x : { } . = ALIGN(64)"), "where \";\" is wanted"),
        (inserted(".x : { PROVIDE(a = .) }"), "where \";\" is wanted"),
        (inserted(".x : { *(.x@y) }"), ".x@y"),
        (inserted(".x : { } .x : { }"), "second section"),
        (
            inserted(".tbss : { *(.tbss*) } .tbss : { *(.tbss*) }"),
            "second section",
        ),
    ] {
        let message = read(&text).unwrap_err();
        assert!(
            message.contains(words) && message.starts_with("x.ld:"),
            "{text}: {message}"
        );
    }
}

/// The borders beside tables of one block, by name, and the names in chains.
fn sides(text: &str) -> (Vec<(String, Option<ThreadBorder>)>, Vec<String>) {
    let tables = read(text).unwrap();
    let beside = tables.beside.iter();
    let links = tables.chains.iter().flat_map(|chain| &chain.links);
    (
        beside.map(|b| (b.symbol.name.clone(), b.border)).collect(),
        links
            .filter_map(|link| match link {
                Link::Symbol(symbol) => Some(symbol.name.clone()),
                _ => None,
            })
            .collect(),
    )
}

#[test]
fn a_symbol_that_faces_the_anchor_is_a_tables_only_as_one_of_two() {
    let thread = ".tdata : { *(.tdata*) } .tbss : { *(.tbss*) }";
    for (inside, anchor, nothing, of_table) in [
        ("a = .; .x : { *(.x) }", "AFTER .data", "a", ""),
        ("a = .; b = .; .x : { *(.x) }", "AFTER .data", "a b", ""),
        ("a = .; .x : { *(.x) } b = .;", "AFTER .data", "", "a b"),
        ("a = .; .x : { *(.x) b = .; }", "AFTER .data", "", "a"),
        (
            "a = .; .x : { s = .; *(.x) e = .; }",
            "AFTER .data",
            "a",
            "",
        ),
        (
            "a = .; . = ALIGN(8); s = .; .x : { *(.x) } e = .;",
            "AFTER .data",
            "a",
            "s e",
        ),
        ("a = .; .x : { *(.x) }", "BEFORE .data", "", "a"),
        (".x : { *(.x) } a = .;", "BEFORE .bss", "a", ""),
        (".x : { *(.x) } a = .;", "AFTER .bss", "", "a"),
        (".x : { s = .; *(.x) } a = .;", "BEFORE .bss", "", "a"),
        (
            ".x : { s = .; *(.x) e = .; } a = .;",
            "BEFORE .bss",
            "a",
            "",
        ),
        (
            "s = .; .x : { *(.x) } e = .; . = ALIGN(16); a = .;",
            "BEFORE .bss",
            "a",
            "s e",
        ),
        (
            "s = .; .x : { *(.x) } . = ALIGN(16); e = .;",
            "AFTER .bss",
            "",
            "s e",
        ),
    ] {
        let (beside, chained) = sides(&format!("SECTIONS {{ {inside} }} INSERT {anchor};"));
        let beside: Vec<&str> = beside.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(beside.join(" "), nothing, "{inside} {anchor}");
        assert_eq!(chained.join(" "), of_table, "{inside} {anchor}");
    }
    let start = |text: String| sides(&text).0[0].1;
    let alone = format!("SECTIONS {{ a = .; {thread} }} INSERT AFTER .data;");
    assert_eq!(start(alone.clone()), None);
    let before = alone.replace("AFTER", "BEFORE");
    assert_eq!(start(before), Some(ThreadBorder::Start));
}

#[test]
fn a_symbol_between_a_table_and_what_lies_elsewhere_is_not_guessed() {
    let thread = ".tdata : { *(.tdata*) } .tbss : { *(.tbss*) }";
    let inserted = |inside: String| sides(&format!("SECTIONS {{ {inside} }} INSERT BEFORE .data;"));
    let named = |name: &str, border| vec![(name.to_owned(), border)];
    // With no alignment, on either side.
    let behind = ".tbss : { *(.tbss*) } .tdata : { *(.tdata*) } s = .; .x : { *(.x) e = .; }";
    assert_eq!(inserted(behind.to_owned()), (named("s", None), vec![]));
    let before = format!(".x : {{ *(.x) }} s = .; {thread}");
    assert_eq!(inserted(before), (named("s", None), vec![]));
    // What is aligned may be an end, if there is no other.
    let end = format!(".x : {{ s = .; *(.x) }} . = ALIGN(4); e = .; {thread}");
    assert_eq!(inserted(end), (named("e", None), vec![]));
    let start = format!(".x : {{ *(.x) e = .; }} . = ALIGN(4); s = .; {thread}");
    let border = Some(ThreadBorder::Start);
    assert_eq!(inserted(start), (named("s", border), vec![]));
    let start = format!(".x : {{ *(.x) }} e = .; . = ALIGN(4); s = .; {thread}");
    assert_eq!(inserted(start), (named("s", border), vec!["e".to_owned()]));
    let end = format!("{thread} . = ALIGN(8); e = .; .x : {{ *(.x) }}");
    assert_eq!(inserted(end), (named("e", None), vec![]));
}

#[test]
fn sections_that_are_inserted_in_one_go_lie_one_behind_the_other() {
    let tables = read(
        "SECTIONS { .x : { ts = .; *(.x) } } SECTIONS { .y : { *(.y) } te = .; } INSERT AFTER .data;",
    )
    .unwrap();
    let links = [Link::Table(0), Link::Table(1), Link::Symbol(symbol("te"))];
    assert_eq!(tables.chains.len(), 1);
    assert_eq!(tables.chains[0].links, links);
}

#[test]
fn an_alignment_before_thread_local_variables_is_where_they_begin() {
    let thread = ".tdata : { *(.tdata*) } .tbss : { *(.tbss*) }";
    for (inside, anchor, alignment) in [
        (format!("a = .; {thread}"), "BEFORE .data", 1),
        (
            format!(". = ALIGN(4K); a = .; . = ALIGN(8); {thread}"),
            "BEFORE .data",
            4096,
        ),
        (
            format!(".x : {{ *(.x) }} . = ALIGN(64); a = .; {thread}"),
            "AFTER .rodata",
            64,
        ),
        // What is in between has any size.
        (
            format!(". = ALIGN(64); .x : {{ *(.x) }} {thread}"),
            "AFTER .rodata",
            1,
        ),
        (format!("{thread} . = ALIGN(64);"), "AFTER .rodata", 1),
        (
            ".tdata : { *(.tdata*) } . = ALIGN(64); .tbss : { *(.tbss*) }".to_owned(),
            "BEFORE .data",
            1,
        ),
        (
            ".x : { *(.x) } . = ALIGN(64);".to_owned(),
            "BEFORE .tdata",
            64,
        ),
        (
            ". = ALIGN(64); .x : { *(.x) }".to_owned(),
            "BEFORE .tdata",
            1,
        ),
        (".x : { *(.x) } . = ALIGN(64);".to_owned(), "AFTER .tbss", 1),
    ] {
        let text = format!("SECTIONS {{ {inside} }} INSERT {anchor};");
        let tables = read(&text).unwrap();
        assert_eq!(tables.thread_start_alignment(), alignment, "{text}");
    }
}

#[test]
fn what_is_said_in_one_script_counts_in_all() {
    let anchored = "SECTIONS { .y : { *(.y) te = .; } } INSERT AFTER .data;";
    for (first, second, words) in [
        (
            "SECTIONS { .x : { PROVIDE(te = .); *(.x) } } INSERT AFTER .data;",
            anchored,
            "x.ld:1: a second symbol te",
        ),
        (
            anchored,
            "SECTIONS { .data : { *(.x) } } INSERT AFTER .rodata;",
            "x.ld:1: INSERT at .data",
        ),
        (
            "SECTIONS { .data : { *(.x) } } INSERT AFTER .rodata;",
            anchored,
            "x.ld:1: INSERT at .data",
        ),
    ] {
        let mut tables = Tables::default();
        tables.read("x.ld", first).unwrap();
        let message = tables.read("x.ld", second).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }
}

proptest! {
    #[test]
    fn any_script_has_an_answer(words in proptest::collection::vec(
        prop::sample::select(vec!["SECTIONS", "{", "}", "INSERT", "AFTER", ".x", ":", "*", "(", ")", "KEEP", ".", "=",
            "ALIGN", "8", ";", "PROVIDE", "SORT", "\"", "/*", ",", "a", ".tdata", ".tbss", "+", "SIZEOF", "\n"]), 0..40)) {
        let _ = read(&words.join(" "));
    }
}
