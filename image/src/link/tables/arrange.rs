//! Which symbols and alignments of a script belong to which sections.
//!
//! In a script a symbol between two sections is the end of one and the start of the next. Of tables it is both here,
//! too, as they lie one behind the other. What the image places itself lies elsewhere, and so does what the sections are
//! inserted at. There an alignment decides, as writers of scripts put one before a start: what is before it belongs to the
//! section before, what is behind it to the next, if the other side has its symbol as well. A symbol of which that cannot be
//! told is at the border of what is not in one piece.

use super::read::{Block, Item, ItemKind, THREAD_SECTION, Usual, refused};
use super::{Beside, Chain, Link, Statement, Symbol, Table, Tables, ThreadBorder};
use crate::link::error::LinkError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    /// Its place in [`Tables::all`].
    Table(usize),
    Usual(Usual),
}

/// Adds what is inserted in one go by `file`.
pub(super) fn arrange(tables: &mut Tables, file: &str, block: Block) -> Result<(), LinkError> {
    let mut arranger = Arranger {
        tables,
        file,
        is_after: block.is_after,
        anchor: block.anchor,
        sections: Vec::new(),
        groups: vec![Vec::new()],
        ends_zeros: false,
        chain: Vec::new(),
    };
    for item in block.items {
        arranger.take(item)?;
    }
    for group in 0..arranger.groups.len() {
        arranger.place(group);
    }
    arranger.end_chain();
    Ok(())
}

struct Arranger<'t> {
    tables: &'t mut Tables,
    file: &'t str,
    /// They stand behind what they are inserted at, not before it.
    is_after: bool,
    /// The output section at which they are inserted.
    anchor: &'static str,
    sections: Vec<Section>,
    /// What stands before each section, and what behind the last.
    groups: Vec<Vec<Link>>,
    /// The end of the zeros of the thread-local template has a symbol.
    ends_zeros: bool,
    /// Tables that lie one behind the other, so far.
    chain: Vec<Link>,
}

impl Arranger<'_> {
    fn take(&mut self, Item { is, line }: Item) -> Result<(), LinkError> {
        let section = match is {
            ItemKind::Align(alignment) => {
                self.waits(Link::Align(alignment));
                return Ok(());
            }
            ItemKind::Symbol(symbol) => {
                self.waits(Link::Symbol(symbol));
                return Ok(());
            }
            ItemKind::EndOfZeros(symbol) => {
                let is_end = self.sections.last() == Some(&Section::Usual(Usual::ThreadZeros))
                    && !self.groups.last().is_some_and(|group| has_alignment(group));
                if !is_end {
                    let what = ". + SIZEOF(.tbss) elsewhere than behind section .tbss";
                    return Err(refused(self.file, line, what));
                }
                self.ends_zeros = true;
                self.beside(symbol, Some(ThreadBorder::End));
                return Ok(());
            }
            ItemKind::Table(table) => {
                let mut known = self.tables.all.iter();
                if known.any(|known| known.name == table.name) {
                    let what = format!("a second section {}", table.name);
                    return Err(refused(self.file, line, &what));
                }
                self.tables.all.push(table);
                Section::Table(self.tables.all.len() - 1)
            }
            ItemKind::Usual(usual, name) => {
                if self.tables.usual.contains(&name) {
                    let what = format!("a second section {name}");
                    return Err(refused(self.file, line, &what));
                }
                self.tables.usual.push(name);
                Section::Usual(usual)
            }
        };
        self.sections.push(section);
        self.groups.push(Vec::new());
        Ok(())
    }

    fn waits(&mut self, link: Link) {
        if let Some(group) = self.groups.last_mut() {
            group.push(link);
        }
    }

    /// Gives what stands before section number `next` to the sections on both sides, and has that section follow if it is a table.
    fn place(&mut self, next: usize) {
        let group = self.groups[next].clone();
        let last = next.checked_sub(1).map(|last| self.sections[last]);
        self.align_threads(next, &group);
        match (last, self.sections.get(next).copied()) {
            (None, None) => self.of_nothing(group),
            (None, Some(_)) => {
                let is_clear = !self.is_after || self.has_end(next);
                let (before, start) = at_last_alignment(group);
                let before = match self.sections[next] {
                    // Nothing else is before it.
                    Section::Table(_) if !self.is_after => {
                        self.chain.extend(before);
                        Vec::new()
                    }
                    _ => before,
                };
                self.of_next(next, before, start, is_clear);
            }
            (Some(last), None) => {
                let is_clear = self.is_after || self.has_start(next - 1);
                let (end, behind) = at_first_alignment(group);
                self.of_last(last, end, is_clear);
                match last {
                    // An end may be aligned, too.
                    Section::Table(_) if self.is_after => self.chain.extend(behind),
                    _ => self.of_nothing(behind),
                }
            }
            (Some(Section::Table(_)), Some(Section::Table(_))) => self.chain.extend(group),
            (Some(last), Some(of_next)) => {
                let is_told = has_alignment(&group);
                // Zeros of thread-local variables take no addresses: what is behind them is where they begin, but for their
                // alignment.
                let is_between_threads = last == Section::Usual(Usual::Thread)
                    && of_next == Section::Usual(Usual::ThreadZeros);
                let (end, rest) = at_first_alignment(group);
                let is_ended = end.iter().any(is_symbol) || self.is_marked(next - 1).1;
                self.of_last(last, end, is_told || is_between_threads);
                let is_clear =
                    is_ended || matches!(of_next, Section::Table(_)) && self.has_end(next);
                let (between, start) = at_last_alignment(rest);
                self.of_next(next, between, start, is_clear);
            }
        }
        match self.sections.get(next) {
            Some(Section::Table(table)) => self.chain.push(Link::Table(*table)),
            _ => self.end_chain(),
        }
    }

    /// Nothing that the image places is moved by an alignment before it, but the template of thread-local variables: it is
    /// in one piece, and everyone finds its start, by a symbol or by its program header.
    fn align_threads(&mut self, next: usize, group: &[Link]) {
        let is_before_threads = match self.sections.get(next) {
            Some(section) => *section == Section::Usual(Usual::Thread),
            None => !self.is_after && self.anchor == THREAD_SECTION,
        };
        let alignments = group.iter().filter_map(|link| match link {
            Link::Align(alignment) => Some(*alignment),
            _ => None,
        });
        if let Some(alignment) = alignments.max().filter(|_| is_before_threads) {
            let so_far = &mut self.tables.thread_start_alignment;
            *so_far = Some(alignment.max(so_far.unwrap_or(1)));
        }
    }

    /// Gives section `last` what stands at its end, if that `is_clear`.
    fn of_last(&mut self, last: Section, end: Vec<Link>, is_clear: bool) {
        match last {
            _ if !is_clear => self.of_nothing(end),
            Section::Table(_) => self.chain.extend(end),
            Section::Usual(Usual::Thread) => self.all_beside(end, Some(ThreadBorder::Stored)),
            Section::Usual(_) => self.of_nothing(end),
        }
    }

    /// Gives section number `next` what stands at its `start`, if that `is_clear`; `before` is farther away.
    fn of_next(&mut self, next: usize, before: Vec<Link>, start: Vec<Link>, is_clear: bool) {
        match self.sections[next] {
            Section::Table(_) => {
                let alignments = before.iter().filter(|link| !is_symbol(link)).cloned();
                self.chain.extend(alignments);
                self.of_nothing(before);
                let (symbols, alignments): (Vec<_>, Vec<_>) =
                    start.into_iter().partition(is_symbol);
                self.chain.extend(alignments);
                if is_clear {
                    self.chain.extend(symbols);
                } else {
                    self.of_nothing(symbols);
                }
            }
            Section::Usual(usual) => {
                self.of_nothing(before);
                let is_start = usual == Usual::Thread && is_clear;
                self.all_beside(start, is_start.then_some(ThreadBorder::Start));
            }
        }
    }

    /// Whether section number `at` has a symbol of its own at its start, and one at its end.
    fn is_marked(&self, at: usize) -> (bool, bool) {
        match self.sections[at] {
            Section::Table(table) => marks(&self.tables.all[table]),
            Section::Usual(_) => (false, false),
        }
    }

    /// Section number `at` has a symbol that can only be its end.
    fn has_end(&self, at: usize) -> bool {
        let group = &self.groups[at + 1];
        let mut symbols = group.iter().take_while(|link| is_symbol(link));
        let is_shared = match (self.sections[at], self.sections.get(at + 1)) {
            (Section::Table(_), Some(Section::Usual(_))) => !has_alignment(group),
            _ => false,
        };
        let is_last = at + 1 == self.sections.len();
        let is_aligned = is_last && self.is_after && group.iter().any(is_symbol);
        let is_of_threads = self.sections[at] == Section::Usual(Usual::Thread) && self.ends_zeros;
        let (starts, ends) = self.is_marked(at);
        symbols.next().is_some() && !is_shared || is_aligned || is_of_threads || ends && !starts
    }

    /// Section number `at` has a symbol that can only be its start.
    fn has_start(&self, at: usize) -> bool {
        let group = &self.groups[at];
        let mut symbols = group.iter().rev().take_while(|link| is_symbol(link));
        let is_shared = match at.checked_sub(1).map(|last| self.sections[last]) {
            Some(Section::Usual(_)) => !has_alignment(group),
            _ => false,
        };
        let (starts, ends) = self.is_marked(at);
        symbols.next().is_some() && !is_shared || starts && !ends
    }

    fn of_nothing(&mut self, links: Vec<Link>) {
        self.all_beside(links, None);
    }

    fn all_beside(&mut self, links: Vec<Link>, border: Option<ThreadBorder>) {
        for link in links {
            if let Link::Symbol(symbol) = link {
                self.beside(symbol, border);
            }
        }
    }

    fn beside(&mut self, symbol: Symbol, border: Option<ThreadBorder>) {
        self.tables.beside.push(Beside {
            symbol,
            border,
            file: self.file.to_owned(),
        });
    }

    fn end_chain(&mut self) {
        let links = std::mem::take(&mut self.chain);
        if !links.is_empty() {
            self.tables.chains.push(Chain {
                file: self.file.to_owned(),
                links,
            });
        }
    }
}

/// Whether `table` begins with a symbol, and whether it ends with one.
fn marks(table: &Table) -> (bool, bool) {
    let mut others = table
        .statements
        .iter()
        .filter(|statement| !matches!(statement, Statement::Align(_)));
    let is_symbol = |statement: Option<&Statement>| matches!(statement, Some(Statement::Symbol(_)));
    (
        is_symbol(others.clone().next()),
        is_symbol(others.next_back()),
    )
}

fn is_symbol(link: &Link) -> bool {
    matches!(link, Link::Symbol(_))
}

fn is_alignment(link: &Link) -> bool {
    matches!(link, Link::Align(_))
}

fn has_alignment(links: &[Link]) -> bool {
    links.iter().any(is_alignment)
}

/// What is before the first alignment, and the rest.
fn at_first_alignment(mut links: Vec<Link>) -> (Vec<Link>, Vec<Link>) {
    let at = links.iter().position(is_alignment);
    let rest = links.split_off(at.unwrap_or(links.len()));
    (links, rest)
}

/// What is before the last alignment, and the rest with it.
fn at_last_alignment(mut links: Vec<Link>) -> (Vec<Link>, Vec<Link>) {
    let at = links.iter().rposition(is_alignment);
    let rest = links.split_off(at.unwrap_or(0));
    (links, rest)
}
