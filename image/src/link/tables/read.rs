//! Reads what a script says, up to what it means for other sections.

use super::tokens::{is_name, is_pattern, tokens};
use super::{Pattern, Statement, Symbol, Table};
use crate::link::args::Expression;
use crate::link::error::LinkError;
use crate::link::pattern;

/// Most that is asked for.
const MAX_ALIGNMENT: u64 = 1 << 21;

/// A section that the image has a place for anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Usual {
    /// What of the template of thread-local variables is in the file.
    Thread,
    /// The rest of it.
    ThreadZeros,
    /// Frames and their tables, of which libraries have their own.
    Frames,
}

/// What of the template of thread-local variables is in the file is called so.
pub(super) const THREAD_SECTION: &str = ".tdata";

/// What such a section is called, and how the names of sections begin that it holds.
const USUAL: [(&str, Usual, &[&str]); 5] = [
    (
        THREAD_SECTION,
        Usual::Thread,
        &[THREAD_SECTION, ".gnu.linkonce.td."],
    ),
    (
        ".tbss",
        Usual::ThreadZeros,
        &[".tbss", ".gnu.linkonce.tb.", ".tcommon"],
    ),
    (".eh_frame", Usual::Frames, &[".eh_frame"]),
    (".eh_frame_hdr", Usual::Frames, &[".eh_frame_hdr"]),
    (".gcc_except_table", Usual::Frames, &[".gcc_except_table"]),
];

/// Output sections of ld's own script for static programs, at which others can be inserted.
const ANCHORS: [&str; 26] = [
    ".bss",
    ".ctors",
    ".data",
    ".data.rel.ro",
    ".data1",
    ".dtors",
    ".eh_frame",
    ".eh_frame_hdr",
    ".fini",
    ".fini_array",
    ".gcc_except_table",
    ".got",
    ".got.plt",
    ".init",
    ".init_array",
    ".jcr",
    ".lbss",
    ".ldata",
    ".lrodata",
    ".plt",
    ".preinit_array",
    ".rodata",
    ".rodata1",
    ".tbss",
    THREAD_SECTION,
    ".text",
];

/// Symbols that the image has for every program.
const OWN_SYMBOLS: [&str; 16] = [
    "__bss_start",
    "__etext",
    "__fini_array_end",
    "__fini_array_start",
    "__init_array_end",
    "__init_array_start",
    "__preinit_array_end",
    "__preinit_array_start",
    "__rela_iplt_end",
    "__rela_iplt_start",
    "_edata",
    "_end",
    "_etext",
    "edata",
    "end",
    "etext",
];

/// What a script says.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) blocks: Vec<Block>,
    /// The symbols that it defines, each with its line.
    pub(super) defined: Vec<(String, usize)>,
}

/// What is inserted in one go: all `SECTIONS` before an `INSERT`.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) items: Vec<Item>,
    /// `AFTER`, not `BEFORE`.
    pub(super) is_after: bool,
    /// The output section at which it is inserted, and the line that says so.
    pub(super) anchor: &'static str,
    pub(super) line: usize,
}

/// What a `SECTIONS` has in it, in order.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) is: ItemKind,
    /// In the script.
    pub(super) line: usize,
}

#[derive(Clone, Debug)]
pub(super) enum ItemKind {
    /// `. = ALIGN(n)`
    Align(u64),
    /// `name = .`
    Symbol(Symbol),
    /// `name = . + SIZEOF(.tbss)`: zeros of thread-local variables take no addresses.
    EndOfZeros(Symbol),
    Table(Table),
    Usual(Usual, &'static str),
}

/// What the script `text` of `file` says.
pub(super) fn script(file: &str, text: &str) -> Result<Script, LinkError> {
    let tokens = tokens(text).map_err(|(line, what)| refused(file, line, what))?;
    let mut parser = Parser {
        file,
        tokens,
        at: 0,
        line: 1,
        defined: Vec::new(),
    };
    let blocks = parser.script()?;
    Ok(Script {
        blocks,
        defined: parser.defined,
    })
}

/// `what` of a script is not followed.
pub(super) fn refused(file: &str, line: usize, what: &str) -> LinkError {
    LinkError::input(
        format!("{file}:{line}"),
        format!(
            "{what}: of linker scripts only tables that are inserted are followed (SECTIONS {{ start = .; NAME : {{ \
             KEEP(*(PATTERN)) }} end = .; }} INSERT AFTER NAME;), with ALIGN, SORT and PROVIDE"
        ),
    )
}

struct Parser<'s> {
    file: &'s str,
    /// Each with its line.
    tokens: Vec<(String, usize)>,
    at: usize,
    /// Of the token that was looked at last.
    line: usize,
    /// Symbols, each with its line.
    defined: Vec<(String, usize)>,
}

impl Parser<'_> {
    fn refused(&self, what: &str) -> LinkError {
        refused(self.file, self.line, what)
    }

    fn peek(&self) -> &str {
        self.peek_behind(0)
    }

    fn peek_behind(&self, count: usize) -> &str {
        let token = self.tokens.get(self.at + count);
        token.map_or("", |(token, _)| token)
    }

    fn next(&mut self) -> String {
        self.look();
        let token = self.peek().to_owned();
        self.at += 1;
        token
    }

    /// The next token is the one that messages are about.
    fn look(&mut self) {
        let token = self.tokens.get(self.at);
        self.line = token.map_or(self.line, |(_, line)| *line);
    }

    fn takes(&mut self, token: &str) -> bool {
        let is_it = self.peek() == token;
        if is_it {
            self.next();
        }
        is_it
    }

    fn expect(&mut self, token: &str) -> Result<(), LinkError> {
        if self.takes(token) {
            return Ok(());
        }
        self.look();
        let found = named(self.peek());
        Err(self.refused(&format!("{found}, where {token:?} is wanted")))
    }

    fn script(&mut self) -> Result<Vec<Block>, LinkError> {
        let mut inserted = Vec::new();
        let mut open: Vec<(usize, Vec<Item>)> = Vec::new();
        loop {
            match self.next().as_str() {
                "" => break,
                ";" => {}
                "SECTIONS" => {
                    let line = self.line;
                    let items = self.items()?;
                    open.push((line, items));
                }
                "INSERT" => {
                    let line = self.line;
                    if open.is_empty() {
                        return Err(self.refused("INSERT without SECTIONS before it"));
                    }
                    let is_after = self.takes("AFTER");
                    if !is_after {
                        self.expect("BEFORE")?;
                    }
                    let anchor = self.anchor(is_after)?;
                    inserted.push(Block {
                        items: open.drain(..).flat_map(|(_, items)| items).collect(),
                        is_after,
                        anchor,
                        line,
                    });
                }
                other => return Err(self.refused(&named(other))),
            }
        }
        if let Some((line, _)) = open.first() {
            self.line = *line;
            return Err(self.refused("SECTIONS without INSERT, which places all sections itself"));
        }
        Ok(inserted)
    }

    /// What is inserted at.
    fn anchor(&mut self, is_after: bool) -> Result<&'static str, LinkError> {
        let name = self.name()?;
        let side = if is_after { "AFTER" } else { "BEFORE" };
        let Some(anchor) = ANCHORS.iter().find(|anchor| **anchor == name) else {
            return Err(self.refused(&format!(
                "INSERT {side} {name}, which is not found for insert among the output sections of ld's own script"
            )));
        };
        // That would part the two, which ld refuses.
        if (is_after, *anchor) == (true, THREAD_SECTION) || (is_after, *anchor) == (false, ".tbss")
        {
            let what = format!("INSERT {side} {name}, between .tdata and .tbss");
            return Err(self.refused(&what));
        }
        Ok(anchor)
    }

    fn items(&mut self) -> Result<Vec<Item>, LinkError> {
        self.expect("{")?;
        let mut items = Vec::new();
        while !self.takes("}") {
            if self.takes(";") {
                continue;
            }
            self.look();
            let line = self.line;
            let is_symbol = matches!(self.peek(), "PROVIDE" | "PROVIDE_HIDDEN" | "HIDDEN")
                || self.peek_behind(1) == "=";
            let is = if is_symbol {
                self.between()?
            } else {
                self.section()?
            };
            items.push(Item { is, line });
        }
        Ok(items)
    }

    /// What stands between sections.
    fn between(&mut self) -> Result<ItemKind, LinkError> {
        let word = self.next();
        if word == "." {
            self.expect("=")?;
            let alignment = self.align()?;
            self.end_of_assignment()?;
            return Ok(ItemKind::Align(alignment));
        }
        let in_parentheses = self.peek() != "=";
        let symbol = self.symbol(word)?;
        let adds_zeros = self.takes("+");
        if adds_zeros {
            for token in ["SIZEOF", "(", ".tbss", ")"] {
                self.expect(token)?;
            }
        }
        if in_parentheses {
            self.expect(")")?;
        }
        self.end_of_assignment()?;
        Ok(if adds_zeros {
            ItemKind::EndOfZeros(symbol)
        } else {
            ItemKind::Symbol(symbol)
        })
    }

    /// A symbol that is where it stands, up to what may follow the dot: `word` is its name, or what has the definition in
    /// parentheses.
    fn symbol(&mut self, word: String) -> Result<Symbol, LinkError> {
        let is_plain = self.peek() == "=" && is_name(&word);
        let (name, is_provided) = if is_plain {
            (word, false)
        } else {
            self.expect("(")?;
            (self.name()?, word != "HIDDEN")
        };
        if OWN_SYMBOLS.contains(&name.as_str()) {
            let what = format!("symbol {name}, which the image places");
            return Err(self.refused(&what));
        }
        self.defined.push((name.clone(), self.line));
        self.expect("=")?;
        self.expect(".")?;
        Ok(Symbol { name, is_provided })
    }

    /// What ends an assignment.
    fn end_of_assignment(&mut self) -> Result<(), LinkError> {
        if self.takes(",") {
            return Ok(());
        }
        self.expect(";")
    }

    fn section(&mut self) -> Result<ItemKind, LinkError> {
        let name = self.name()?;
        let mut alignment = 1;
        if !self.takes(":") {
            alignment = self.align()?;
            self.expect(":")?;
        }
        if self.peek() == "ALIGN" {
            alignment = alignment.max(self.align()?);
        }
        let usual = USUAL.iter().find(|(usual, ..)| *usual == name);
        // Nothing can tell how frames are aligned: a symbol at their borders is refused.
        if let Some((name, Usual::Thread | Usual::ThreadZeros, _)) = usual
            && alignment > 1
        {
            let what = format!("ALIGN({alignment}) of section {name}, which the image places");
            return Err(self.refused(&what));
        }
        self.expect("{")?;
        let mut statements = Vec::new();
        while !self.takes("}") {
            if self.takes(";") {
                continue;
            }
            let statement = self.statement()?;
            if let Some((name, _, prefixes)) = usual {
                self.refuse_unusual(name, prefixes, &statement)?;
            }
            statements.push(statement);
        }
        let is_end = self.takes(";")
            || self.takes(",")
            || matches!(self.peek(), "}" | "INSERT" | ".")
            || is_name(self.peek());
        if !is_end {
            self.look();
            let found = format!("{:?} behind section {name}", self.peek());
            return Err(self.refused(&found));
        }
        let Some((name, usual, _)) = usual else {
            return Ok(ItemKind::Table(Table {
                name,
                alignment,
                statements,
            }));
        };
        // Of one that holds some sections of its kind alone the borders would be others.
        let takes = |section: &str| {
            statements.iter().any(|statement| match statement {
                Statement::Sections { patterns, .. } => {
                    let mut patterns = patterns.iter();
                    patterns.any(|known| pattern::matches(&known.text, section))
                }
                _ => false,
            })
        };
        if takes(name) && takes(&format!("{name}.x")) {
            return Ok(ItemKind::Usual(*usual, name));
        }
        Err(self.refused(&format!(
            "a section {name} that does not hold all sections of the name (*({name} {name}.*))"
        )))
    }

    fn refuse_unusual(
        &self,
        name: &str,
        prefixes: &[&str],
        statement: &Statement,
    ) -> Result<(), LinkError> {
        let Statement::Sections { patterns, .. } = statement else {
            let what =
                format!("a symbol or an alignment in section {name}, which the image places");
            return Err(self.refused(&what));
        };
        let is_usual = |pattern: &&Pattern| {
            let mut prefixes = prefixes.iter();
            prefixes.any(|prefix| pattern.text.starts_with(prefix))
        };
        match patterns.iter().find(|pattern| !is_usual(pattern)) {
            None => Ok(()),
            Some(pattern) => Err(self.refused(&format!(
                "{:?} in section {name}, which the image places",
                pattern.text
            ))),
        }
    }

    fn statement(&mut self) -> Result<Statement, LinkError> {
        let word = self.next();
        Ok(match word.as_str() {
            "." => {
                self.expect("=")?;
                let alignment = self.align()?;
                self.end_of_assignment()?;
                Statement::Align(alignment)
            }
            "KEEP" => {
                self.expect("(")?;
                self.expect("*")?;
                let patterns = self.patterns()?;
                self.expect(")")?;
                let keeps = true;
                Statement::Sections { patterns, keeps }
            }
            "*" => Statement::Sections {
                patterns: self.patterns()?,
                keeps: false,
            },
            "PROVIDE" | "PROVIDE_HIDDEN" | "HIDDEN" => {
                let symbol = self.symbol(word)?;
                self.expect(")")?;
                self.end_of_assignment()?;
                Statement::Symbol(symbol)
            }
            _ if self.peek() == "=" && is_name(&word) => {
                let symbol = self.symbol(word)?;
                self.end_of_assignment()?;
                Statement::Symbol(symbol)
            }
            other => return Err(self.refused(&named(other))),
        })
    }

    /// What stands in parentheses behind the pattern of files.
    fn patterns(&mut self) -> Result<Vec<Pattern>, LinkError> {
        let mut patterns = Vec::new();
        self.expect("(")?;
        while !self.takes(")") {
            let token = self.next();
            let is_sorted = matches!(token.as_str(), "SORT" | "SORT_BY_NAME") && self.takes("(");
            let text = if is_sorted { self.next() } else { token };
            if is_sorted {
                self.expect(")")?;
            }
            let is_pattern = is_pattern(&text) && !matches!(self.peek(), "(" | "");
            if !is_pattern {
                return Err(self.refused(&format!("{} among names of sections", named(&text))));
            }
            patterns.push(Pattern { text, is_sorted });
            self.takes(",");
        }
        // In which order ld has them then depends on more than their names.
        if patterns.iter().any(|pattern| pattern.is_sorted)
            && !patterns.iter().all(|pattern| pattern.is_sorted)
        {
            return Err(self.refused("names of sections with SORT and without it in one statement"));
        }
        Ok(patterns)
    }

    /// `ALIGN(n)`
    fn align(&mut self) -> Result<u64, LinkError> {
        self.expect("ALIGN")?;
        self.expect("(")?;
        let mut text = String::new();
        let mut depth = 0usize;
        while !self.peek().is_empty() && (depth > 0 || self.peek() != ")") {
            let token = self.next();
            match token.as_str() {
                "(" => depth += 1,
                ")" => depth -= 1,
                _ => {}
            }
            text += &token;
        }
        let number = Expression::parse(&text).and_then(|is| is.constant());
        let number = number.filter(|n| n.is_power_of_two() && *n <= MAX_ALIGNMENT);
        let number = number.ok_or_else(|| self.refused(&format!("ALIGN({text})")))?;
        self.expect(")")?;
        Ok(number)
    }

    fn name(&mut self) -> Result<String, LinkError> {
        let name = self.next();
        if is_name(&name) {
            return Ok(name);
        }
        Err(self.refused(&format!("{}, where a name is wanted", named(&name))))
    }
}

/// For messages.
fn named(token: &str) -> String {
    match token {
        "" => "its end".to_owned(),
        token => format!("{token:?}"),
    }
}
