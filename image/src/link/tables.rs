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
#[cfg(test)]
mod tests;
mod tokens;

use std::collections::BTreeSet;

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
    /// What the first byte of the template of thread-local variables is aligned to, beside what its variables ask for: by
    /// an `ALIGN` before `.tdata`, which moves the section and is not an alignment of it.
    thread_start_alignment: Option<u64>,
    /// Names of the image's own sections of which a script has said what they hold.
    usual: Vec<&'static str>,
    /// The output sections that something is inserted at, each with script and line.
    anchors: Vec<(&'static str, String, usize)>,
    /// The names of all symbols.
    defined: BTreeSet<String>,
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
        let script = read::script(file, text)?;
        for (name, line) in script.defined {
            if !self.defined.insert(name.clone()) {
                return Err(read::refused(
                    file,
                    line,
                    &format!("a second symbol {name}"),
                ));
            }
        }
        for block in script.blocks {
            self.anchors
                .push((block.anchor, file.to_owned(), block.line));
            arrange::arrange(self, file, block)?;
        }
        self.refuse_anchors()
    }

    /// What is inserted at sections of scripts would lie between these and what stands around them.
    fn refuse_anchors(&self) -> Result<(), LinkError> {
        let is_placed = |name: &str| {
            self.usual.contains(&name) || self.all.iter().any(|table| table.name == name)
        };
        match self.anchors.iter().find(|(name, ..)| is_placed(name)) {
            None => Ok(()),
            Some((name, file, line)) => {
                let what = format!("INSERT at {name}, which a script inserts itself");
                Err(read::refused(file, *line, &what))
            }
        }
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

    /// What the first byte of the template of thread-local variables is aligned to at least, though no variable in it is.
    pub(super) fn thread_start_alignment(&self) -> u64 {
        self.thread_start_alignment.unwrap_or(1)
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
