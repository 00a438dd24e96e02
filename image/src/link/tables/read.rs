//! Reads what a script says, up to what it means for other sections.

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

/// What such a section is called, and how the names of sections begin that it holds.
const USUAL: [(&str, Usual, &[&str]); 5] = [
    (".tdata", Usual::Thread, &[".tdata", ".gnu.linkonce.td."]),
    (
        ".tbss",
        Usual::ThreadZeros,
        &[".tbss", ".gnu.linkonce.tb.", ".tcommon"],
    ),
    (".eh_frame", Usual::Frames, &[".eh_frame"]),
    (".eh_frame_hdr", Usual::Frames, &[".eh_frame_hdr"]),
    (".gcc_except_table", Usual::Frames, &[".gcc_except_table"]),
];

/// What one `SECTIONS` has in it, in order.
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

/// The contents of each `SECTIONS` that is inserted.
pub(super) fn blocks(file: &str, text: &str) -> Result<Vec<Vec<Item>>, LinkError> {
    let mut parser = Parser {
        file,
        tokens: tokens(text),
        at: 0,
        line: 1,
    };
    parser.script()
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

    fn script(&mut self) -> Result<Vec<Vec<Item>>, LinkError> {
        let mut inserted = Vec::new();
        let mut open = Vec::new();
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
                    if !self.takes("AFTER") {
                        self.expect("BEFORE")?;
                    }
                    self.next();
                    inserted.extend(open.drain(..).map(|(_, items)| items));
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
            return Ok(ItemKind::Align(self.align()?));
        }
        let in_parentheses = self.peek() != "=";
        let symbol = self.symbol(word)?;
        let adds_zeros = self.takes("+");
        if adds_zeros {
            for token in ["SIZEOF", "(", ".tbss", ")"] {
                self.expect(token)?;
            }
        }
        self.expect(if in_parentheses { ")" } else { ";" })?;
        Ok(if adds_zeros {
            ItemKind::EndOfZeros(symbol)
        } else {
            ItemKind::Symbol(symbol)
        })
    }

    /// A symbol that is where it stands, up to what may follow the dot: `word` is its name, or what has the definition in
    /// parentheses.
    fn symbol(&mut self, word: String) -> Result<Symbol, LinkError> {
        if self.peek() == "=" && is_name(&word) {
            self.next();
            self.expect(".")?;
            let is_provided = false;
            return Ok(Symbol {
                name: word,
                is_provided,
            });
        }
        self.expect("(")?;
        let name = self.name()?;
        self.expect("=")?;
        self.expect(".")?;
        let is_provided = word != "HIDDEN";
        Ok(Symbol { name, is_provided })
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
        self.expect("{")?;
        let usual = USUAL.iter().find(|(usual, ..)| *usual == name);
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
                Statement::Align(self.align()?)
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
                Statement::Symbol(symbol)
            }
            _ if self.peek() == "=" && is_name(&word) => {
                let symbol = self.symbol(word)?;
                self.expect(";")?;
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
            let is_pattern = !text.is_empty()
                && !matches!(self.peek(), "(" | "")
                && !matches!(text.as_str(), "(" | "{" | "}" | "=" | ";" | "COMMON");
            if !is_pattern {
                return Err(self.refused(&format!("{} among names of sections", named(&text))));
            }
            patterns.push(Pattern { text, is_sorted });
            self.takes(",");
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

fn is_name(token: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '.' | '$');
    token != "."
        && !matches!(token, "KEEP" | "ASSERT")
        && token.starts_with(first)
        && token
            .chars()
            .all(|c| first(c) || c.is_ascii_digit() || c == '-')
}

/// Words, and punctuation of one character each, with their lines.
fn tokens(text: &str) -> Vec<(String, usize)> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut line = 1;
    let is_end = |c: char| c.is_whitespace() || "{}();:=,\"".contains(c);
    while let Some(c) = rest.chars().next() {
        let (token, after) = if let Some(comment) = rest.strip_prefix("/*") {
            (
                None,
                comment.split_once("*/").map_or("", |(_, after)| after),
            )
        } else if c.is_whitespace() {
            (None, &rest[c.len_utf8()..])
        } else if let Some(quoted) = rest.strip_prefix('"') {
            let (inside, after) = quoted.split_once('"').unwrap_or((quoted, ""));
            (Some(inside), after)
        } else if is_end(c) {
            let (token, after) = rest.split_at(c.len_utf8());
            (Some(token), after)
        } else {
            let (token, after) = rest.split_at(rest.find(is_end).unwrap_or(rest.len()));
            (Some(token), after)
        };
        tokens.extend(token.map(|token| (token.to_owned(), line)));
        let read = &rest[..rest.len() - after.len()];
        line += read.matches('\n').count();
        rest = after;
    }
    tokens
}
