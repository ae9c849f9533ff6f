use sluicebox_model::{MergeRule, NumberFormat, Property, Value, add_exactly};

/// What a mapped cell asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The cell is empty.
    Clear,
    /// The cell's values: one, or for a `multiple` property one or more.
    Write(Property),
}

/// What a rule makes of a property.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Nothing changes.
    Keep,
    /// The property is now this.
    Put(Property),
    /// The property has no value any more.
    Clear,
    /// The cell cannot be imported.
    Reject,
}

/// Applies a rule to what a property holds. (The five rules of an import goal.)
pub fn merge(rule: MergeRule, held: Option<&Property>, change: &Change) -> Outcome {
    let written = match change {
        Change::Clear if rule == MergeRule::SetOrClear && held.is_some() => return Outcome::Clear,
        Change::Clear => return Outcome::Keep,
        Change::Write(written) => written,
    };
    let put =
        |property: Property| if held == Some(&property) { Outcome::Keep } else { Outcome::Put(property) };
    match rule {
        MergeRule::Set | MergeRule::SetOrClear => put(written.clone()),
        MergeRule::SetIfEmpty if held.is_some() => Outcome::Keep,
        MergeRule::SetIfEmpty => put(written.clone()),
        MergeRule::Add => put(Property::Many(unite(held.map_or(&[], Property::values), written.values()))),
        MergeRule::Sum => match sum(held, written) {
            Some(sum) => put(sum),
            None => Outcome::Reject,
        },
    }
}

/// The values of both lists, each once, in order.
pub(crate) fn unite(held: &[Value], more: &[Value]) -> Vec<Value> {
    let mut values = held.to_vec();
    for value in more {
        if !values.contains(value) {
            values.push(value.clone());
        }
    }
    values
}

fn sum(held: Option<&Property>, written: &Property) -> Option<Property> {
    let number = |property: &Property| match property.values() {
        [Value::Number(number)] => Some(*number),
        // The property may have been a text when the value was stored.
        [Value::Text(text)] => NumberFormat::default().parse(text),
        _ => None,
    };
    let summand = number(written)?;
    let sum = match held {
        Some(held) => add_exactly(number(held)?, summand)?,
        None => summand,
    };
    Some(Property::One(Value::Number(sum)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Property {
        let number = NumberFormat::default().parse(text);
        Property::One(number.map_or(Value::Text(text.into()), Value::Number))
    }

    fn list(text: &str) -> Property {
        Property::Many(text.split('|').map(|part| Value::Text(part.into())).collect())
    }

    /// `None` = no value before, `""` = an empty cell; the answer shows the values, `-` kept, `!` rejected.
    #[track_caller]
    fn check(rule: MergeRule, read: fn(&str) -> Property, held: Option<&str>, cell: &str, expected: &str) {
        let change = if cell.is_empty() { Change::Clear } else { Change::Write(read(cell)) };
        let found = match merge(rule, held.map(read).as_ref(), &change) {
            Outcome::Keep => "-".into(),
            Outcome::Clear => "".into(),
            Outcome::Reject => "!".into(),
            Outcome::Put(property) => {
                property.values().iter().map(ToString::to_string).collect::<Vec<_>>().join("|")
            }
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn the_five_rules() {
        use MergeRule::{Add, Set, SetIfEmpty, SetOrClear, Sum};
        for (rule, held, cell, expected) in [
            (Set, Some("a"), "b", "b"),
            (Set, Some("a"), "a", "-"),
            (Set, Some("a"), "", "-"),
            (Set, None, "b", "b"),
            (SetIfEmpty, Some("a"), "b", "-"),
            (SetIfEmpty, None, "b", "b"),
            (SetIfEmpty, None, "", "-"),
            (SetOrClear, Some("a"), "b", "b"),
            (SetOrClear, Some("a"), "", ""),
            (SetOrClear, None, "", "-"),
            (Sum, Some("1.5"), "2.5", "4"),
            (Sum, None, "2.50", "2.5"),
            (Sum, Some("a"), "1", "!"),
            (Sum, Some("9999999999999999999999999999"), "1", "!"),
            (Sum, Some("1"), "0", "-"),
        ] {
            check(rule, one, held, cell, expected);
        }
        for (rule, held, cell, expected) in [
            (Add, Some("a|b"), "b|c|a|d", "a|b|c|d"),
            (Add, Some("a|b"), "b", "-"),
            (Add, None, "a|b", "a|b"),
            (Set, Some("a|b"), "b", "b"),
            (SetIfEmpty, Some("a"), "b|c", "-"),
        ] {
            check(rule, list, held, cell, expected);
        }
    }
}
