//! Symbols that the command line defines (`--defsym`), once it is known what the program has under each name.
//! They count before what objects define (binutils, `ld/ldexp.c`, `exp_fold_tree_1`).

use std::cell::OnceCell;

use super::args::{Definition, Expression, LinkRequest, Operator};
use super::error::LinkError;
use super::object::{Binding, Object, Place, Symbol};
use super::resolve::Resolution;
use super::unit::{SymbolId, Unit};

/// An object of the application that holds a symbol for each definition, none of them anybody's yet.
pub(super) fn object(request: &LinkRequest) -> Option<Object<'_>> {
    let symbols = request.definitions.iter().map(|definition| Symbol {
        name: &definition.name,
        value: 0,
        size: 0,
        binding: Binding::Local,
        kind: 0,
        visibility: 0,
        place: Place::Absolute,
    });
    (!request.definitions.is_empty()).then(|| Object {
        name: "--defsym".to_owned(),
        sections: Vec::new(),
        symbols: symbols.collect(),
        groups: Vec::new(),
        entered: OnceCell::new(),
    })
}

/// Gives all their meanings. `own` is the object for them, in the application.
pub(super) fn settle<'a>(
    request: &'a LinkRequest,
    units: &mut [Unit<'a>],
    own: Option<usize>,
    program: &mut Resolution<'a>,
) -> Result<(), LinkError> {
    let Some(own) = own else {
        return Ok(());
    };
    let all = &request.definitions;
    let mut values = Vec::with_capacity(all.len());
    for (at, definition) in all.iter().enumerate() {
        let twin = all[..at].iter().find(|other| other.name == definition.name);
        if twin.is_some_and(|other| other.is != definition.is) {
            return Err(fault(
                definition,
                "the symbol is defined before, otherwise: leave one out",
            ));
        }
        let evaluation = Evaluation {
            all,
            units,
            program,
        };
        values.push(evaluation.value(definition, &definition.is, 0)?);
    }
    for (index, (definition, value)) in all.iter().zip(values).enumerate() {
        let id = match value {
            Value::Number(number) => {
                let symbol = &mut units[0].objects[own].symbols[index];
                symbol.value = number;
                symbol.binding = Binding::Global;
                SymbolId {
                    unit: 0,
                    object: own,
                    symbol: index,
                }
            }
            Value::At(id, 0) => id,
            Value::At(id, distance) => {
                let symbol = beside(&units[id.unit], id, definition, distance)?;
                let symbol = units[id.unit].objects[id.object].add_symbol(symbol);
                SymbolId { symbol, ..id }
            }
        };
        program.define(&definition.name, id);
    }
    Ok(())
}

fn fault(definition: &Definition, problem: impl Into<String>) -> LinkError {
    LinkError::option(format!("--defsym {}", definition.text), problem)
}

/// A symbol at a distance of another.
fn beside<'a>(
    unit: &Unit<'a>,
    id: SymbolId,
    definition: &'a Definition,
    distance: i64,
) -> Result<Symbol<'a>, LinkError> {
    let object = &unit.objects[id.object];
    let of = &object.symbols[id.symbol];
    let why_not = match of.place {
        _ if of.is_thread_local() => Some("thread-local"),
        _ if of.is_indirect_function() => {
            Some("a function that chooses its implementation at start")
        }
        Place::Section(s) if object.sections[s].is_mergeable() => {
            Some("in a section whose entries are merged")
        }
        Place::Section(_) => None,
        Place::Undefined | Place::Absolute | Place::Common => Some("a tentative definition"),
    };
    if let Some(why_not) = why_not {
        let problem = format!(
            "{} is {why_not}, beside which there is nothing to define: define the symbol in an object",
            of.name
        );
        return Err(fault(definition, problem));
    }
    Ok(Symbol {
        name: &definition.name,
        value: of.value.wrapping_add_signed(distance),
        size: 0,
        binding: Binding::Global,
        kind: 0,
        visibility: 0,
        place: of.place,
    })
}

/// What an expression comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Number(u64),
    /// At a distance from a symbol.
    At(SymbolId, i64),
}

struct Evaluation<'e, 'a> {
    all: &'a [Definition],
    units: &'e [Unit<'a>],
    program: &'e Resolution<'a>,
}

impl Evaluation<'_, '_> {
    fn value(
        &self,
        of: &Definition,
        expression: &Expression,
        depth: usize,
    ) -> Result<Value, LinkError> {
        Ok(match expression {
            Expression::Number(number) => Value::Number(*number),
            Expression::Symbol(name) => self.symbol(of, name, depth)?,
            Expression::Minus(inner) => {
                Value::Number(0u64.wrapping_sub(self.number(of, inner, depth)?))
            }
            Expression::Not(inner) => Value::Number(!self.number(of, inner, depth)?),
            Expression::Two(operator, one, other) => {
                let values = (self.value(of, one, depth)?, self.value(of, other, depth)?);
                match (operator, values) {
                    (
                        Operator::Plus,
                        (Value::At(id, distance), Value::Number(more))
                        | (Value::Number(more), Value::At(id, distance)),
                    ) => Value::At(id, distance.wrapping_add_unsigned(more)),
                    (Operator::Minus, (Value::At(id, distance), Value::Number(less))) => {
                        Value::At(id, distance.wrapping_sub_unsigned(less))
                    }
                    (operator, (Value::Number(one), Value::Number(other))) => {
                        let value = operator.calculate(one, other);
                        Value::Number(value.ok_or_else(|| fault(of, "it divides by zero"))?)
                    }
                    _ => return Err(Self::not_a_number(of)),
                }
            }
        })
    }

    fn number(
        &self,
        of: &Definition,
        expression: &Expression,
        depth: usize,
    ) -> Result<u64, LinkError> {
        match self.value(of, expression, depth)? {
            Value::Number(number) => Ok(number),
            Value::At(..) => Err(Self::not_a_number(of)),
        }
    }

    fn not_a_number(of: &Definition) -> LinkError {
        fault(
            of,
            "of a symbol's address only a sum with a number, or the difference, is defined: define the symbol in an \
             object",
        )
    }

    fn symbol(&self, of: &Definition, name: &str, depth: usize) -> Result<Value, LinkError> {
        let name = self.program.renamed(name);
        if let Some(other) = self.all.iter().find(|other| other.name == name) {
            if depth > self.all.len() {
                return Err(fault(
                    of,
                    "the symbol is defined by itself: define it in an object",
                ));
            }
            return self.value(other, &other.is, depth + 1);
        }
        let id = self.program.definition(name).ok_or_else(|| {
            fault(
                of,
                format!("no object defines {name}: name the object or the library (-l) that does"),
            )
        })?;
        let symbol = &self.units[id.unit].objects[id.object].symbols[id.symbol];
        Ok(match symbol.place {
            Place::Absolute => Value::Number(symbol.value),
            _ => Value::At(id, 0),
        })
    }
}
