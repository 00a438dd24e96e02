//! Linker scripts that add to the usual one (`-T` with `INSERT`): tables that are gathered from sections of all objects,
//! with symbols at their borders (ld's manual, "Miscellaneous Commands").
//!
//! Followed is what says what a table holds, in which order, how it is aligned and what its symbols are. Where it is to
//! stand makes no difference: the image places it. A script that would place all sections itself is refused, and so is
//! whatever else is said, by name.

use super::error::LinkError;
use super::pattern;

/// Most that is asked for.
const MAX_ALIGNMENT: u64 = 1 << 21;

/// An output section of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) name: String,
    /// A power of two.
    pub(super) alignment: u64,
    pub(super) statements: Vec<Statement>,
    /// The script.
    pub(super) file: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Statement {
    /// `. = ALIGN(n)`
    Align(u64),
    /// `name = .`
    Symbol {
        name: String,
        /// By `PROVIDE`: only where no object has one.
        is_provided: bool,
    },
    /// `*(patterns)`
    Sections {
        patterns: Vec<Pattern>,
        /// By `KEEP`: they are needed whatever refers to them.
        keeps: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    pub(super) text: String,
    pub(super) is_sorted: bool,
}

/// All tables of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tables(pub(super) Vec<Table>);

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
        let mut parser = Parser {
            file,
            tokens: tokens(text),
            at: 0,
        };
        let found = parser.script()?;
        for table in found {
            if self.0.iter().any(|known| known.name == table.name) {
                return Err(parser.refused(&format!("a second section {}", table.name)));
            }
            self.0.push(table);
        }
        Ok(())
    }

    /// Where the sections called `name` go, if a table has them: the first counts.
    pub(super) fn place(&self, name: &str) -> Option<Placed> {
        self.0.iter().enumerate().find_map(|(table, of)| {
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
        self.0.iter().flat_map(|table| {
            let symbols = table
                .statements
                .iter()
                .filter_map(|statement| match statement {
                    Statement::Symbol {
                        name,
                        is_provided: false,
                    } => Some(name.as_str()),
                    _ => None,
                });
            symbols.map(|name| (name, table.file.as_str()))
        })
    }
}

struct Parser<'s> {
    file: &'s str,
    tokens: Vec<String>,
    at: usize,
}

impl Parser<'_> {
    fn refused(&self, what: &str) -> LinkError {
        LinkError::input(
            self.file,
            format!(
                "{what}: of linker scripts only tables that are inserted are followed (SECTIONS {{ NAME : {{ start = .; \
                 KEEP(*(PATTERN)) end = .; }} }} INSERT AFTER NAME;), with ALIGN, SORT and PROVIDE"
            ),
        )
    }

    fn peek(&self) -> &str {
        self.tokens.get(self.at).map_or("", String::as_str)
    }

    fn next(&mut self) -> String {
        let token = self.peek().to_owned();
        self.at += 1;
        token
    }

    fn takes(&mut self, token: &str) -> bool {
        let is_it = self.peek() == token;
        self.at += usize::from(is_it);
        is_it
    }

    fn expect(&mut self, token: &str) -> Result<(), LinkError> {
        if self.takes(token) {
            return Ok(());
        }
        let found = named(self.peek());
        Err(self.refused(&format!("{found}, where {token:?} is wanted")))
    }

    fn script(&mut self) -> Result<Vec<Table>, LinkError> {
        let mut inserted = Vec::new();
        let mut open = Vec::new();
        loop {
            match self.next().as_str() {
                "" => break,
                ";" => {}
                "SECTIONS" => {
                    self.expect("{")?;
                    while !self.takes("}") {
                        open.push(self.table()?);
                    }
                }
                "INSERT" => {
                    if !self.takes("AFTER") {
                        self.expect("BEFORE")?;
                    }
                    self.next();
                    inserted.append(&mut open);
                }
                other => return Err(self.refused(&named(other))),
            }
        }
        if !open.is_empty() {
            return Err(self.refused("SECTIONS without INSERT, which places all sections itself"));
        }
        Ok(inserted)
    }

    fn table(&mut self) -> Result<Table, LinkError> {
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
        let mut statements = Vec::new();
        while !self.takes("}") {
            if !self.takes(";") {
                statements.push(self.statement()?);
            }
        }
        if self.takes(";")
            || self.takes(",")
            || matches!(self.peek(), "}" | "INSERT")
            || self.is_name()
        {
            return Ok(Table {
                name,
                alignment,
                statements,
                file: self.file.to_owned(),
            });
        }
        let found = format!("{:?} behind section {name}", self.peek());
        Err(self.refused(&found))
    }

    fn statement(&mut self) -> Result<Statement, LinkError> {
        let word = self.next();
        Ok(match word.as_str() {
            "." => {
                self.expect("=")?;
                Statement::Align(self.align()?)
            }
            "PROVIDE" | "PROVIDE_HIDDEN" | "HIDDEN" => {
                self.expect("(")?;
                let name = self.name()?;
                self.expect("=")?;
                self.expect(".")?;
                self.expect(")")?;
                let is_provided = word != "HIDDEN";
                Statement::Symbol { name, is_provided }
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
            _ if self.peek() == "=" && is_name(&word) => {
                self.at += 1;
                self.expect(".")?;
                self.expect(";")?;
                let is_provided = false;
                Statement::Symbol {
                    name: word,
                    is_provided,
                }
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
        let text = self.next();
        let digits = text.strip_prefix("0x").or(text.strip_prefix("0X"));
        let number = match digits {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        };
        let number = number.filter(|n: &u64| n.is_power_of_two() && *n <= MAX_ALIGNMENT);
        let number = number.ok_or_else(|| self.refused(&format!("ALIGN({text})")))?;
        self.expect(")")?;
        Ok(number)
    }

    fn is_name(&self) -> bool {
        is_name(self.peek())
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
        && token != "KEEP"
        && token.starts_with(first)
        && token
            .chars()
            .all(|c| first(c) || c.is_ascii_digit() || c == '-')
}

/// Words, and punctuation of one character each.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let is_end = |c: char| c.is_whitespace() || "{}();:=,\"".contains(c);
        if let Some(comment) = rest.strip_prefix("/*") {
            rest = comment.split_once("*/").map_or("", |(_, after)| after);
        } else if c.is_whitespace() {
            rest = &rest[c.len_utf8()..];
        } else if let Some(quoted) = rest.strip_prefix('"') {
            let (inside, after) = quoted.split_once('"').unwrap_or((quoted, ""));
            tokens.push(inside.to_owned());
            rest = after;
        } else if is_end(c) {
            tokens.push(c.to_string());
            rest = &rest[c.len_utf8()..];
        } else {
            let end = rest.find(is_end).unwrap_or(rest.len());
            tokens.push(rest[..end].to_owned());
            rest = &rest[end..];
        }
    }
    tokens
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

    #[test]
    fn inserted_tables_are_read() {
        let tables = read(
            "/* tables */ SECTIONS { .init_table : ALIGN(16) { init_start = .; KEEP(*(SORT(.init_table.*))) \
             KEEP(*(.init_table .late)); . = ALIGN(0x8); PROVIDE(init_end = .); } .more : { *(.more*) } } \
             INSERT AFTER .data; SECTIONS { extra ALIGN(64) : { *(extra) } } INSERT BEFORE .bss",
        )
        .unwrap();
        let names: Vec<(&str, u64)> = tables
            .0
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
        let provided = Statement::Symbol {
            name: "init_end".to_owned(),
            is_provided: true,
        };
        assert_eq!(
            tables.0[0].statements[3..],
            [Statement::Align(8), provided][..]
        );
    }

    #[test]
    fn what_is_not_followed_is_named() {
        for (text, words) in [
            ("SECTIONS { .x : { *(.x) } }", "without INSERT"),
            ("MEMORY { }", "MEMORY"),
            (
                "SECTIONS { .x 0x1000 : { *(.x) } } INSERT AFTER .data;",
                "0x1000",
            ),
            ("SECTIONS { .x : { x.o(.x) } } INSERT AFTER .data;", "x.o"),
            ("SECTIONS { .x : { LONG(1) } } INSERT AFTER .data;", "LONG"),
            ("SECTIONS { .x : { a = . + 4; } } INSERT AFTER .data;", "+"),
            (
                "SECTIONS { .x : { *(EXCLUDE_FILE (a) .x) } } INSERT AFTER .data;",
                "EXCLUDE_FILE",
            ),
            (
                "SECTIONS { .x : { *(COMMON) } } INSERT AFTER .data;",
                "COMMON",
            ),
            (
                "SECTIONS { .x : { . = ALIGN(3); } } INSERT AFTER .data;",
                "ALIGN(3)",
            ),
            (
                "SECTIONS { .x : { *(.x) } >ram } INSERT AFTER .data;",
                ">ram",
            ),
            ("SECTIONS { .x : { *(.x) ", "its end"),
            (
                "SECTIONS { .x : { } .x : { } } INSERT AFTER .data;",
                "second section",
            ),
        ] {
            let message = read(text).unwrap_err();
            assert!(
                message.contains(words) && message.contains("x.ld"),
                "{text}: {message}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_script_has_an_answer(words in proptest::collection::vec(
            prop::sample::select(vec!["SECTIONS", "{", "}", "INSERT", "AFTER", ".x", ":", "*", "(", ")", "KEEP", ".", "=",
                "ALIGN", "8", ";", "PROVIDE", "SORT", "\"", "/*", ","]), 0..40)) {
            let _ = read(&words.join(" "));
        }
    }
}
