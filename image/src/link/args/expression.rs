//! The expressions of `--defsym`: numbers, symbols, and arithmetic, with the precedences of C.

use crate::link::error::LinkError;

/// A symbol that the command line defines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// What it is.
    pub is: Expression,
    /// As written, for messages.
    pub text: String,
}

/// What a symbol is defined as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// A number.
    Number(u64),
    /// The address of a symbol.
    Symbol(String),
    /// `-x`.
    Minus(Box<Expression>),
    /// `~x`.
    Not(Box<Expression>),
    /// Two, and what is between them.
    Two(Operator, Box<Expression>, Box<Expression>),
}

/// What is between two expressions.
#[allow(missing_docs)] // They are what they are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Or,
    Xor,
    And,
    Left,
    Right,
    Plus,
    Minus,
    Times,
    Divided,
    Rest,
}

/// Each with how strongly it binds.
const OPERATORS: [(&str, Operator, u8); 10] = [
    ("<<", Operator::Left, 4),
    (">>", Operator::Right, 4),
    ("|", Operator::Or, 1),
    ("^", Operator::Xor, 2),
    ("&", Operator::And, 3),
    ("+", Operator::Plus, 5),
    ("-", Operator::Minus, 5),
    ("*", Operator::Times, 6),
    ("/", Operator::Divided, 6),
    ("%", Operator::Rest, 6),
];

/// Deepest nesting.
const DEPTH: usize = 64;

impl Definition {
    /// Reads `SYMBOL=EXPRESSION`.
    pub(super) fn parse(text: &str) -> Result<Self, LinkError> {
        let wrong = |problem: String| LinkError::option(format!("--defsym {text}"), problem);
        let (name, rest) = text
            .split_once('=')
            .ok_or_else(|| wrong("write SYMBOL=EXPRESSION".to_owned()))?;
        let mut parser = Parser { rest };
        let read = parser.expression(0, 0).and_then(|is| {
            let end = parser.rest.trim_start().is_empty();
            end.then_some(is)
        });
        let is = read.ok_or_else(|| {
            wrong(format!(
                "cannot read {:?}: only numbers, symbols, + - * / % & | ^ ~ << >> and parentheses are followed; \
                 define the symbol in an object",
                parser.rest.trim_start()
            ))
        })?;
        Ok(Self {
            name: name.trim().to_owned(),
            is,
            text: text.to_owned(),
        })
    }
}

impl Operator {
    /// None for what divides by zero.
    pub(in crate::link) fn calculate(self, one: u64, other: u64) -> Option<u64> {
        let shift = u32::try_from(other).ok();
        Some(match self {
            Self::Or => one | other,
            Self::Xor => one ^ other,
            Self::And => one & other,
            Self::Left => shift.and_then(|by| one.checked_shl(by)).unwrap_or(0),
            Self::Right => shift.and_then(|by| one.checked_shr(by)).unwrap_or(0),
            Self::Plus => one.wrapping_add(other),
            Self::Minus => one.wrapping_sub(other),
            Self::Times => one.wrapping_mul(other),
            Self::Divided => (one as i64).checked_div(other as i64)? as u64,
            Self::Rest => (one as i64).checked_rem(other as i64)? as u64,
        })
    }
}

impl Expression {
    /// Reads one, if all of `text` is that.
    pub(in crate::link) fn parse(text: &str) -> Option<Self> {
        let mut parser = Parser { rest: text };
        let read = parser.expression(0, 0)?;
        parser.rest.trim_start().is_empty().then_some(read)
    }

    /// What it is, if no symbol is in it.
    pub(in crate::link) fn constant(&self) -> Option<u64> {
        Some(match self {
            Self::Number(number) => *number,
            Self::Symbol(_) => return None,
            Self::Minus(of) => 0u64.wrapping_sub(of.constant()?),
            Self::Not(of) => !of.constant()?,
            Self::Two(operator, one, other) => {
                operator.calculate(one.constant()?, other.constant()?)?
            }
        })
    }

    /// The symbols in it.
    pub(in crate::link) fn symbols<'e>(&'e self, found: &mut Vec<&'e str>) {
        match self {
            Self::Number(_) => {}
            Self::Symbol(name) => found.push(name),
            Self::Minus(of) | Self::Not(of) => of.symbols(found),
            Self::Two(_, one, other) => {
                one.symbols(found);
                other.symbols(found);
            }
        }
    }
}

struct Parser<'t> {
    rest: &'t str,
}

impl Parser<'_> {
    fn takes(&mut self, word: &str) -> bool {
        let rest = self.rest.trim_start().strip_prefix(word);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// An expression of operators that bind at least as strongly as `least`.
    fn expression(&mut self, least: u8, depth: usize) -> Option<Expression> {
        if depth > DEPTH {
            return None;
        }
        let mut left = self.operand(depth)?;
        loop {
            let rest = self.rest.trim_start();
            let mut known = OPERATORS.iter();
            let found = known.find(|(word, ..)| rest.starts_with(word));
            // What goes on behind it is another operator, which is none of these.
            let is_one = |word: &str| !rest[word.len()..].starts_with(['=', '&', '|', '<', '>']);
            match found {
                Some((word, operator, strength)) if *strength >= least && is_one(word) => {
                    self.takes(word);
                    let right = self.expression(strength + 1, depth + 1)?;
                    left = Expression::Two(*operator, Box::new(left), Box::new(right));
                }
                _ => return Some(left),
            }
        }
    }

    fn operand(&mut self, depth: usize) -> Option<Expression> {
        if depth > DEPTH {
            return None;
        }
        if self.takes("(") {
            let inner = self.expression(0, depth + 1)?;
            return self.takes(")").then_some(inner);
        }
        if self.takes("-") {
            return Some(Expression::Minus(Box::new(self.operand(depth + 1)?)));
        }
        if self.takes("~") {
            return Some(Expression::Not(Box::new(self.operand(depth + 1)?)));
        }
        if self.takes("+") {
            return self.operand(depth + 1);
        }
        let rest = self.rest.trim_start();
        if let Some(quoted) = rest.strip_prefix('"') {
            let (name, after) = quoted.split_once('"')?;
            self.rest = after;
            return Some(Expression::Symbol(name.to_owned()));
        }
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '$' | '@');
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let operand = if word.starts_with(|c: char| c.is_ascii_digit()) {
            Expression::Number(number(word)?)
        } else if word.is_empty() || word == "." || word.starts_with('$') {
            return None;
        } else {
            Expression::Symbol(word.to_owned())
        };
        self.rest = after;
        // It would be a function of ld's.
        (!after.trim_start().starts_with('(')).then_some(operand)
    }
}

/// `0x10`, `020`, `16`, `16K`, `16M`.
fn number(word: &str) -> Option<u64> {
    if let Some(digits) = word.strip_prefix("0x").or(word.strip_prefix("0X")) {
        return u64::from_str_radix(digits, 16).ok();
    }
    let (digits, unit) = match word.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 1 << 10),
        None => match word.strip_suffix(['M', 'm']) {
            Some(digits) => (digits, 1 << 20),
            None => (word, 1),
        },
    };
    let is_octal = digits.len() > 1 && digits.starts_with('0');
    let number = u64::from_str_radix(digits, if is_octal { 8 } else { 10 });
    number.ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_read_as_c_has_them() {
        use Operator::{And, Left, Or, Plus, Times};
        let number = |n| Box::new(Expression::Number(n));
        let two = |o, a, b| Expression::Two(o, a, b);
        for (text, expected) in [
            ("0x1f", Expression::Number(31)),
            ("017", Expression::Number(15)),
            ("4K", Expression::Number(4096)),
            ("a.b", Expression::Symbol("a.b".into())),
            ("\"a b\"", Expression::Symbol("a b".into())),
            (
                "1+2*3",
                two(Plus, number(1), Box::new(two(Times, number(2), number(3)))),
            ),
            (
                "(1 + 2) * 3",
                two(Times, Box::new(two(Plus, number(1), number(2))), number(3)),
            ),
            (
                "1<<4|~3&7",
                two(
                    Or,
                    Box::new(two(Left, number(1), number(4))),
                    Box::new(two(And, Box::new(Expression::Not(number(3))), number(7))),
                ),
            ),
            (
                "x+8",
                two(Plus, Box::new(Expression::Symbol("x".into())), number(8)),
            ),
        ] {
            let found = Definition::parse(&format!("s={text}")).unwrap();
            assert_eq!((found.name.as_str(), found.is), ("s", expected), "{text}");
        }
        for text in [
            "",
            "1==1",
            "1<2",
            "a?b:c",
            "ALIGN(4)",
            "DEFINED(x)",
            ".",
            "$10",
            "10h",
            "1;",
            "(1",
            "1&&2",
            "1 2",
            "08",
        ] {
            let message = Definition::parse(&format!("s={text}"))
                .unwrap_err()
                .to_string();
            assert!(message.contains("--defsym s="), "{text}: {message}");
        }
        assert!(Definition::parse("s").is_err());
        assert!(Definition::parse(&format!("s={}1", "(".repeat(100_000))).is_err());
    }
}
