use std::borrow::Cow;
use std::collections::HashSet;

use sluicebox_model::packed::{
    is_number, pack_shape, pack_short_number, pack_value, packed_values, short_number, unpack_value,
};
use sluicebox_model::{MergeRule, NumberFormat, Value, add_exactly};

use crate::prepare::FEW_VALUES;

/// What a rule does with a property; properties are packed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome<'a> {
    /// Nothing changes.
    Keep,
    /// The property is now this.
    Put(Cow<'a, [u8]>),
    /// The property has no value any more.
    Clear,
    /// The cell is rejected.
    Reject,
}

/// Applies a rule to a property. `held` is the property in the record, `written` that of the cell; `None` = no value.
#[inline]
pub(crate) fn merge<'a>(rule: MergeRule, held: Option<&[u8]>, written: Option<&'a [u8]>) -> Outcome<'a> {
    let Some(written) = written else {
        let clears = rule == MergeRule::SetOrClear && held.is_some();
        return if clears { Outcome::Clear } else { Outcome::Keep };
    };
    let put = |property: Cow<'a, [u8]>| {
        if held == Some(&*property) { Outcome::Keep } else { Outcome::Put(property) }
    };
    if held.is_none() && is_stored_as_written(rule, written) {
        return Outcome::Put(Cow::Borrowed(written));
    }
    match rule {
        MergeRule::Set | MergeRule::SetOrClear => put(Cow::Borrowed(written)),
        MergeRule::SetIfEmpty => Outcome::Keep,
        MergeRule::Add if held == Some(written) => Outcome::Keep,
        MergeRule::Add => put(Cow::Owned(unite(held.unwrap_or_default(), written))),
        MergeRule::Sum => match sum(held, written) {
            Some(sum) => put(Cow::Owned(sum)),
            None => Outcome::Reject,
        },
    }
}

/// Whether a property without a value becomes `written` byte by byte.
#[inline]
pub(crate) fn is_stored_as_written(rule: MergeRule, written: &[u8]) -> bool {
    match rule {
        MergeRule::Set | MergeRule::SetOrClear | MergeRule::SetIfEmpty => true,
        MergeRule::Add => is_list(written),
        MergeRule::Sum => is_number(written),
    }
}

/// Whether a packed property is a list.
pub(crate) fn is_list(property: &[u8]) -> bool {
    property.first() != Some(&0)
}

/// A list of values, packed.
pub(crate) fn list(values: &[&[u8]]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(values.iter().map(|value| value.len()).sum::<usize>() + 2);
    pack_shape(Some(values.len()), &mut packed);
    values.iter().for_each(|value| packed.extend_from_slice(value));
    packed
}

/// The values of both properties, each once, in order.
pub(crate) fn unite(held: &[u8], more: &[u8]) -> Vec<u8> {
    let mut values: Vec<&[u8]> = Vec::with_capacity(8);
    values.extend(packed_values(held));
    let mut seen: HashSet<&[u8]> = HashSet::new();
    for value in packed_values(more) {
        let known = if values.len() < FEW_VALUES {
            values.contains(&value)
        } else {
            if seen.is_empty() {
                seen.extend(&values);
            }
            !seen.insert(value)
        };
        if !known {
            values.push(value);
        }
    }
    list(&values)
}

/// The values of a property that another one lacks.
pub(crate) fn without<'a>(property: &'a [u8], other: &[u8]) -> Vec<&'a [u8]> {
    if packed_values(other).nth(FEW_VALUES).is_none() {
        let missing = |value: &&[u8]| !packed_values(other).any(|known| known == *value);
        return packed_values(property).filter(missing).collect();
    }
    let others: HashSet<&[u8]> = packed_values(other).collect();
    packed_values(property).filter(|value| !others.contains(value)).collect()
}

fn sum(held: Option<&[u8]>, written: &[u8]) -> Option<Vec<u8>> {
    held.and_then(|held| short_sum(held, written)).or_else(|| long_sum(held, written))
}

/// The sum in 64 bits, as is enough for nearly every sum.
fn short_sum(held: &[u8], written: &[u8]) -> Option<Vec<u8>> {
    let (held, summand) = (short_number(held)?, short_number(written)?);
    let scale = held.1.max(summand.1);
    let digits = |(digits, own): (i64, u32)| digits.checked_mul(10_i64.checked_pow(scale - own)?);
    let mut packed = Vec::with_capacity(16);
    pack_short_number(digits(held)?.checked_add(digits(summand)?)?, scale, &mut packed);
    Some(packed)
}

fn long_sum(held: Option<&[u8]>, written: &[u8]) -> Option<Vec<u8>> {
    let number = |property: &[u8]| {
        let mut values = packed_values(property);
        match (unpack_value(values.next()?)?, values.next()) {
            (Value::Number(number), None) => Some(number),
            // The property may have been of type text when the value was stored.
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
    use proptest::prelude::*;
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

    /// `None` = no value before, `""` = an empty cell. Expected are the values, or `-` = kept, `!` = rejected.
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
    fn short_and_long_lists_are_united_and_subtracted() {
        fn texts(values: Vec<&[u8]>) -> Vec<String> {
            values.into_iter().map(|value| packed_text(value).into_owned()).collect()
        }
        for many in [2_i64, 31, 32, 33, 500] {
            let packed = |from: i64| {
                let values = (from..from + many).map(|number| Value::Number(number.into())).collect();
                let mut packed = Vec::new();
                pack_property(&Property::Many(values), &mut packed);
                packed
            };
            let (held, more) = (packed(0), packed(many / 2));
            let expected =
                |numbers: std::ops::Range<i64>| numbers.map(|number| number.to_string()).collect::<Vec<_>>();
            assert_eq!(texts(packed_values(&unite(&held, &more)).collect()), expected(0..many / 2 + many));
            assert_eq!(texts(without(&held, &more)), expected(0..many / 2));
            assert_eq!(texts(without(&more, &held)), expected(many..many / 2 + many));
        }
    }

    proptest! {
        #[test]
        fn short_sums_are_sums(held in "-?[0-9]{1,19}([.][0-9]{1,9})?", cell in "-?[0-9]{1,19}([.][0-9]{1,9})?") {
            let packed = |text: &str| {
                let mut packed = Vec::new();
                pack_property(&one(text), &mut packed);
                packed
            };
            let (held, written) = (packed(&held), packed(&cell));
            if let Some(short) = short_sum(&held, &written) {
                prop_assert_eq!(Some(short), long_sum(Some(&held), &written));
            }
        }
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
