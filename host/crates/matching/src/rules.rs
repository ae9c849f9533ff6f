use std::borrow::Cow;

use sluicebox_model::packed::{pack_shape, pack_value, packed_values, unpack_value};
use sluicebox_model::{MergeRule, NumberFormat, Value, add_exactly};

/// What a rule makes of a property; properties are packed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome<'a> {
    /// Nothing changes.
    Keep,
    /// The property is now this.
    Put(Cow<'a, [u8]>),
    /// The property has no value any more.
    Clear,
    /// The cell cannot be imported.
    Reject,
}

/// Applies a rule to what a property holds. (The five rules of an import goal.) `written` is what the cell holds; `None`
/// = it is empty.
pub(crate) fn merge<'a>(rule: MergeRule, held: Option<&[u8]>, written: Option<&'a [u8]>) -> Outcome<'a> {
    let Some(written) = written else {
        let clears = rule == MergeRule::SetOrClear && held.is_some();
        return if clears { Outcome::Clear } else { Outcome::Keep };
    };
    let put = |property: Cow<'a, [u8]>| {
        if held == Some(&*property) { Outcome::Keep } else { Outcome::Put(property) }
    };
    match rule {
        MergeRule::Set | MergeRule::SetOrClear => put(Cow::Borrowed(written)),
        MergeRule::SetIfEmpty if held.is_some() => Outcome::Keep,
        MergeRule::SetIfEmpty => put(Cow::Borrowed(written)),
        MergeRule::Add => put(Cow::Owned(unite(held.unwrap_or_default(), written))),
        MergeRule::Sum => match sum(held, written) {
            Some(sum) => put(Cow::Owned(sum)),
            None => Outcome::Reject,
        },
    }
}

/// One value as a packed property.
pub(crate) fn one(value: &[u8]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(value.len() + 1);
    pack_shape(None, &mut packed);
    packed.extend_from_slice(value);
    packed
}

/// Whether a packed property is a list.
pub(crate) fn is_list(property: &[u8]) -> bool {
    property.first() != Some(&0)
}

/// A list of values, packed.
pub(crate) fn list(values: &[&[u8]]) -> Vec<u8> {
    let mut packed = Vec::new();
    pack_shape(Some(values.len()), &mut packed);
    values.iter().for_each(|value| packed.extend_from_slice(value));
    packed
}

/// The values of both properties, each once, in order.
pub(crate) fn unite(held: &[u8], more: &[u8]) -> Vec<u8> {
    let mut values: Vec<&[u8]> = packed_values(held).collect();
    for value in packed_values(more) {
        if !values.contains(&value) {
            values.push(value);
        }
    }
    list(&values)
}

fn sum(held: Option<&[u8]>, written: &[u8]) -> Option<Vec<u8>> {
    let number = |property: &[u8]| {
        let mut values = packed_values(property);
        match (unpack_value(values.next()?)?, values.next()) {
            (Value::Number(number), None) => Some(number),
            // The property may have been a text when the value was stored.
            (Value::Text(text), None) => NumberFormat::default().parse(&text),
            _ => None,
        }
    };
    let summand = number(written)?;
    let sum = match held {
        Some(held) => add_exactly(number(held)?, summand)?,
        None => summand,
    };
    let mut packed = Vec::with_capacity(16);
    pack_shape(None, &mut packed);
    pack_value(&Value::Number(sum), &mut packed);
    Some(packed)
}

#[cfg(test)]
mod tests {
    use sluicebox_model::Property;
    use sluicebox_model::packed::{pack_property, packed_text};

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
        let packed = |text: &str| {
            let mut packed = Vec::new();
            pack_property(&read(text), &mut packed);
            packed
        };
        let (held, written) = (held.map(packed), Some(cell).filter(|cell| !cell.is_empty()).map(packed));
        let found = match merge(rule, held.as_deref(), written.as_deref()) {
            Outcome::Keep => "-".into(),
            Outcome::Clear => "".into(),
            Outcome::Reject => "!".into(),
            Outcome::Put(property) => packed_values(&property).map(packed_text).collect::<Vec<_>>().join("|"),
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
