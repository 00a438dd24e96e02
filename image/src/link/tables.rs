//! Linker scripts that add to the usual one (`-T` with `INSERT`): tables that are gathered from sections of all objects,
//! with symbols at their borders (ld's manual, "Miscellaneous Commands").
//!
//! Followed is what says what a table holds, in which order, how it is aligned and what its symbols are; where it is to
//! stand makes no difference, since the image places it. Tables that one script places in one go lie one behind the other, as a
//! symbol between them may be the end of one and the start of the next. A script may also name sections that the image
//! has a place for anyway, to say what their borders are called: those of the template of thread-local variables are
//! known, others are not in one piece here. A script that would place all sections itself is refused, and so is
//! whatever else is said, by name.

mod arrange;
mod read;

use super::error::LinkError;
use super::pattern;

/// What Unikraft builds gather for their boot code, whatever the platform (`plat/common/bootinfo.lds.S`).
const UNIKRAFT_BOOT_INFORMATION: &str = ".uk_bootinfo";

/// An output section of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) name: String,
    /// A power of two.
    pub(super) alignment: u64,
    pub(super) statements: Vec<Statement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Statement {
    /// `. = ALIGN(n)`
    Align(u64),
    /// `name = .`
    Symbol(Symbol),
    /// `*(patterns)`
    Sections {
        patterns: Vec<Pattern>,
        /// By `KEEP`: they are needed whatever refers to them.
        keeps: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Symbol {
    pub(super) name: String,
    /// By `PROVIDE`: only where no object has one.
    pub(super) is_provided: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    pub(super) text: String,
    pub(super) is_sorted: bool,
}

/// Tables that lie one behind the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    /// The script.
    pub(super) file: String,
    pub(super) links: Vec<Link>,
}

/// What a chain has next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// `. = ALIGN(n)`
    Align(u64),
    /// `name = .`
    Symbol(Symbol),
    /// The table of this place in [`Tables::all`].
    Table(usize),
}

/// A place about the template of thread-local variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ThreadBorder {
    /// Its first byte.
    Start,
    /// The end of what of it is in the file.
    Stored,
    /// The end of all of it.
    End,
}

/// A symbol that is none of a table's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Beside {
    pub(super) symbol: Symbol,
    /// Without one it is at the border of what is not in one piece.
    pub(super) border: Option<ThreadBorder>,
    /// The script.
    pub(super) file: String,
}

/// All tables of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tables {
    pub(super) all: Vec<Table>,
    pub(super) chains: Vec<Chain>,
    pub(super) beside: Vec<Beside>,
    /// Names of the image's own sections of which a script has said what they hold.
    usual: Vec<&'static str>,
}

/// Where sections of a name go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) table: usize,
    pub(super) statement: usize,
    pub(super) is_sorted: bool,
    pub(super) keeps: bool,
}

impl Tables {
    /// Adds what the script `text` of `file` says.
    pub(super) fn read(&mut self, file: &str, text: &str) -> Result<(), LinkError> {
        for items in read::blocks(file, text)? {
            arrange::arrange(self, file, items)?;
        }
        Ok(())
    }

    /// Where the sections called `name` go, if a table has them: the first counts.
    pub(super) fn place(&self, name: &str) -> Option<Placed> {
        self.all.iter().enumerate().find_map(|(table, of)| {
            let mut statements = of.statements.iter().enumerate();
            statements.find_map(|(statement, of)| {
                let Statement::Sections { patterns, keeps } = of else {
                    return None;
                };
                let found = patterns.iter().find(|p| pattern::matches(&p.text, name))?;
                Some(Placed {
                    table,
                    statement,
                    is_sorted: found.is_sorted,
                    keeps: *keeps,
                })
            })
        })
    }

    /// The symbols that count before those of objects, each with its script.
    pub(super) fn symbols(&self) -> impl Iterator<Item = (&str, &str)> {
        let of_chains = self.chains.iter().flat_map(|chain| {
            let links = chain.links.iter();
            let symbols = links.flat_map(|link| -> Vec<&Symbol> {
                match link {
                    Link::Align(_) => Vec::new(),
                    Link::Symbol(symbol) => vec![symbol],
                    Link::Table(table) => self.all[*table].symbols().collect(),
                }
            });
            symbols.map(|symbol| (symbol, chain.file.as_str()))
        });
        let beside = self.beside.iter();
        of_chains
            .chain(beside.map(|beside| (&beside.symbol, beside.file.as_str())))
            .filter(|(symbol, _)| !symbol.is_provided)
            .map(|(symbol, file)| (symbol.name.as_str(), file))
    }

    /// The symbol `name` that is no table's.
    pub(super) fn beside(&self, name: &str) -> Option<&Beside> {
        self.beside.iter().find(|beside| beside.symbol.name == name)
    }

    /// True where symbols are borders of the template of thread-local variables: then the program sets up its threads' memory
    /// by them, and by no program header.
    pub(super) fn have_thread_borders(&self) -> bool {
        self.beside.iter().any(|beside| beside.border.is_some())
    }

    /// True for the link of a Unikraft build, whose objects called `libNAME.o` are its libraries.
    pub(super) fn are_of_unikraft(&self) -> bool {
        let mut all = self.all.iter();
        all.any(|table| table.name == UNIKRAFT_BOOT_INFORMATION)
    }
}

impl Table {
    fn symbols(&self) -> impl Iterator<Item = &Symbol> {
        self.statements
            .iter()
            .filter_map(|statement| match statement {
                Statement::Symbol(symbol) => Some(symbol),
                _ => None,
            })
    }
}

#[cfg(test)]
mod tests {
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
                ("f_start", None),
                ("f_end", None),
                ("t_start", Some(ThreadBorder::Start)),
                ("t_mid", Some(ThreadBorder::Stored)),
                ("t_end", Some(ThreadBorder::End)),
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

    proptest! {
        #[test]
        fn any_script_has_an_answer(words in proptest::collection::vec(
            prop::sample::select(vec!["SECTIONS", "{", "}", "INSERT", "AFTER", ".x", ":", "*", "(", ")", "KEEP", ".", "=",
                "ALIGN", "8", ";", "PROVIDE", "SORT", "\"", "/*", ",", "a", ".tdata", ".tbss", "+", "SIZEOF", "\n"]), 0..40)) {
            let _ = read(&words.join(" "));
        }
    }
}
