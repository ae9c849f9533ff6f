use rust_decimal::{Decimal, RoundingStrategy};
use schemars::JsonSchema;
use serde::Deserialize;
use sluicebox_sdk::Failure;

/// How a number is written, and how to write it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NumberForm {
    /// The decimal sign.
    #[serde(default = "point")]
    decimal: char,
    /// The thousands separator, between groups of three digits.
    thousands: Option<char>,
    /// The number of decimals to write, rounded half away from zero.
    decimals: Option<u32>,
}

fn point() -> char {
    '.'
}

impl NumberForm {
    /// The form, if its signs differ.
    pub(crate) fn checked(self) -> Result<Self, Failure> {
        let is_part_of_a_number = |sign: char| sign.is_ascii_digit() || matches!(sign, '+' | '-');
        let is_clear = Some(self.decimal) != self.thousands
            && !is_part_of_a_number(self.decimal)
            && !self.thousands.is_some_and(is_part_of_a_number);
        if is_clear {
            return Ok(self);
        }
        let expected = "different signs for `decimal` and `thousands`, neither a digit nor `+` or `-`";
        Err(Failure::expected("number", expected))
    }

    /// The number with a decimal point and no thousands separators. `None` if the cell is not a number of this form, such as
    /// one with a separator in a wrong place.
    pub(crate) fn rewrite(&self, cell: &str) -> Option<String> {
        let number: Decimal = self.plain(cell.trim())?.parse().ok()?;
        Some(match self.decimals {
            Some(decimals) => {
                let mut rounded =
                    number.round_dp_with_strategy(decimals, RoundingStrategy::MidpointAwayFromZero);
                rounded.rescale(decimals);
                rounded.to_string()
            }
            None => number.to_string(),
        })
    }

    /// The sign, the digits and a decimal point.
    fn plain(&self, number: &str) -> Option<String> {
        let (sign, unsigned) = match number.strip_prefix('-') {
            Some(rest) => ("-", rest),
            None => ("", number.strip_prefix('+').unwrap_or(number)),
        };
        let (whole, decimals) = match unsigned.split_once(self.decimal) {
            Some((whole, decimals)) => (whole, Some(decimals)),
            None => (unsigned, None),
        };
        let mut plain = sign.to_owned();
        match self.thousands {
            // A zero at the start groups nothing: `0.125` is a number of the other form.
            Some(separator) if whole.contains(separator) && whole.starts_with('0') => return None,
            Some(separator) if whole.contains(separator) => {
                for (place, group) in whole.split(separator).enumerate() {
                    let expected = if place == 0 { 1..=3 } else { 3..=3 };
                    plain.push_str(digits(group).filter(|group| expected.contains(&group.len()))?);
                }
            }
            _ => plain.push_str(digits(whole)?),
        }
        if let Some(decimals) = decimals {
            plain.push('.');
            plain.push_str(digits(decimals)?);
        }
        Some(plain)
    }
}

/// The text, if it has one or more digits and nothing else.
fn digits(text: &str) -> Option<&str> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then_some(text)
}
