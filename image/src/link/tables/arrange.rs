//! Which symbols and alignments of a script belong to which sections.
//!
//! In a script a symbol between two sections is the end of one and the start of the next. Of tables it is both here,
//! too, as they lie one behind the other. What the image places itself lies elsewhere, so there an alignment decides, as
//! writers of scripts put one before a start: what is before it belongs to the section before, what is behind it to the next.

use super::read::{Item, ItemKind, Usual, refused};
use super::{Beside, Chain, Link, Symbol, Tables, ThreadBorder};
use crate::link::error::LinkError;

/// The section that was last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Nothing,
    Table,
    Usual(Usual),
}

/// Adds what one `SECTIONS` of `file` says.
pub(super) fn arrange(tables: &mut Tables, file: &str, items: Vec<Item>) -> Result<(), LinkError> {
    let mut arranger = Arranger {
        tables,
        file,
        chain: Vec::new(),
        waiting: Vec::new(),
        last: Last::Nothing,
    };
    for Item { is, line } in items {
        match is {
            ItemKind::Align(alignment) => arranger.waiting.push(Link::Align(alignment)),
            ItemKind::Symbol(symbol) => arranger.waiting.push(Link::Symbol(symbol)),
            ItemKind::EndOfZeros(symbol) => {
                let is_end = arranger.last == Last::Usual(Usual::ThreadZeros)
                    && !arranger.waiting.iter().any(is_alignment);
                if !is_end {
                    let what = ". + SIZEOF(.tbss) elsewhere than behind section .tbss";
                    return Err(refused(file, line, what));
                }
                arranger.beside(symbol, Some(ThreadBorder::End));
            }
            ItemKind::Table(table) => {
                let known = arranger.tables.all.iter();
                if known.clone().any(|known| known.name == table.name) {
                    let what = format!("a second section {}", table.name);
                    return Err(refused(file, line, &what));
                }
                arranger.before_table();
                arranger.chain.push(Link::Table(arranger.tables.all.len()));
                arranger.tables.all.push(table);
                arranger.last = Last::Table;
            }
            ItemKind::Usual(usual, name) => {
                if arranger.tables.usual.contains(&name) {
                    return Err(refused(file, line, &format!("a second section {name}")));
                }
                arranger.tables.usual.push(name);
                arranger.before_usual(usual);
                arranger.last = Last::Usual(usual);
            }
        }
    }
    let rest = std::mem::take(&mut arranger.waiting);
    if arranger.last == Last::Table {
        // An end may be aligned, too.
        arranger.chain.extend(rest);
    } else {
        let (of_last, of_none) = at_alignment(rest);
        arranger.behind_last(of_last);
        arranger.all_beside(of_none, None);
    }
    arranger.end_chain();
    Ok(())
}

struct Arranger<'t> {
    tables: &'t mut Tables,
    file: &'t str,
    /// Tables that lie one behind the other, so far.
    chain: Vec<Link>,
    /// What was said since the last section.
    waiting: Vec<Link>,
    last: Last,
}

impl Arranger<'_> {
    fn before_table(&mut self) {
        let mut waiting = std::mem::take(&mut self.waiting);
        if matches!(self.last, Last::Usual(_)) {
            let (of_last, rest) = at_alignment(waiting);
            self.behind_last(of_last);
            waiting = rest;
        }
        self.chain.append(&mut waiting);
    }

    fn before_usual(&mut self, next: Usual) {
        let waiting = std::mem::take(&mut self.waiting);
        let start = (next == Usual::Thread).then_some(ThreadBorder::Start);
        match self.last {
            Last::Nothing => self.all_beside(waiting, start),
            // The end of a table, or the start of what lies elsewhere: that cannot be told.
            Last::Table if !waiting.iter().any(is_alignment) => self.all_beside(waiting, None),
            Last::Table | Last::Usual(_) => {
                let (of_last, of_next) = at_alignment(waiting);
                self.behind_last(of_last);
                self.all_beside(of_next, start);
            }
        }
        self.end_chain();
    }

    fn behind_last(&mut self, mut links: Vec<Link>) {
        match self.last {
            Last::Table => self.chain.append(&mut links),
            // Zeros of thread-local variables take no addresses: what is behind them is where they begin, but for their
            // alignment.
            Last::Usual(Usual::Thread) => self.all_beside(links, Some(ThreadBorder::Stored)),
            _ => self.all_beside(links, None),
        }
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

fn is_alignment(link: &Link) -> bool {
    matches!(link, Link::Align(_))
}

/// What is before the first alignment, and the rest.
fn at_alignment(mut links: Vec<Link>) -> (Vec<Link>, Vec<Link>) {
    let at = links.iter().position(is_alignment);
    let rest = links.split_off(at.unwrap_or(links.len()));
    (links, rest)
}
