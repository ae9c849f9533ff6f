use rust_decimal::Decimal;

/// How numbers are written in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumberFormat {
    /// The character before the decimals.
    pub decimal: char,
    /// The character between groups of three digits; `None` = files have none.
    pub thousands: Option<char>,
}

impl Default for NumberFormat {
    fn default() -> Self {
        Self { decimal: '.', thousands: None }
    }
}

/// How many digits a number may have.
const MAX_DIGITS: u32 = 28;

impl NumberFormat {
    /// Reads a number: optional sign, digits, optional decimal part; no exponent; at most 28 digits.
    /// `None` where the text is anything else, such as `.5`, `5.` or misplaced thousands.
    pub fn parse(&self, text: &str) -> Option<Decimal> {
        if let Some(number) = self.parse_short(text.as_bytes()) {
            return Some(number);
        }
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (whole, decimals) = match unsigned.split_once(self.decimal) {
            Some((whole, decimals)) if !decimals.is_empty() => (whole, decimals),
            Some(_) => return None,
            None => (unsigned, ""),
        };
        if whole.is_empty() {
            return None;
        }
        let mut digits = Digits::default();
        match self.thousands {
            Some(separator) if whole.contains(separator) => {
                for (place, group) in whole.split(separator).enumerate() {
                    // A grouped number never starts with 0: `0.125` is a decimal of another notation.
                    let fits = match place {
                        0 => (1..=3).contains(&group.len()) && !group.starts_with('0'),
                        _ => group.len() == 3,
                    };
                    if !fits {
                        return None;
                    }
                    digits.push(group)?;
                }
            }
            _ => digits.push(whole)?,
        }
        digits.push(decimals)?;
        let scale = u32::try_from(decimals.len()).ok()?;
        let mantissa = if negative { -digits.mantissa } else { digits.mantissa };
        let number = Decimal::try_from_i128_with_scale(mantissa, scale).ok()?;
        Some(canonical(number))
    }

    /// Reads what most cells hold: up to 18 digits with at most one decimal sign. `None` leaves the cell to
    /// [`Self::parse`].
    fn parse_short(&self, text: &[u8]) -> Option<Decimal> {
        let (negative, digits) = match text {
            [b'-', digits @ ..] => (true, digits),
            digits => (false, digits),
        };
        let decimal = u8::try_from(self.decimal).ok()?;
        if digits.len() > 18 || !digits.first()?.is_ascii_digit() || !digits.last()?.is_ascii_digit() {
            return None;
        }
        let (mut mantissa, mut scale) = (0_u64, None);
        for byte in digits {
            match (byte, &mut scale) {
                (b'0'..=b'9', scale) => {
                    mantissa = mantissa * 10 + u64::from(byte - b'0');
                    if let Some(scale) = scale {
                        *scale += 1;
                    }
                }
                (byte, scale @ None) if *byte == decimal => *scale = Some(0),
                _ => return None,
            }
        }
        let mut scale: u32 = scale.unwrap_or_default();
        while scale > 0 && mantissa.is_multiple_of(10) {
            mantissa /= 10;
            scale -= 1;
        }
        let (low, high) = (mantissa as u32, (mantissa >> 32) as u32);
        Some(Decimal::from_parts(low, high, 0, negative && mantissa > 0, scale))
    }
}

#[derive(Default)]
struct Digits {
    mantissa: i128,
    count: u32,
}

impl Digits {
    fn push(&mut self, text: &str) -> Option<()> {
        for byte in text.bytes() {
            if !byte.is_ascii_digit() {
                return None;
            }
            if self.mantissa != 0 || byte != b'0' {
                self.count += 1;
            }
            if self.count > MAX_DIGITS {
                return None;
            }
            self.mantissa = self.mantissa * 10 + i128::from(byte - b'0');
        }
        Some(())
    }
}

/// The number without trailing zeros and without a negative zero: equal numbers have equal bytes.
fn canonical(number: Decimal) -> Decimal {
    if number.is_zero() { Decimal::ZERO } else { number.normalize() }
}

/// The exact sum, or `None` if it needs more than 28 digits. (`Decimal` itself would round.)
pub fn add_exactly(a: Decimal, b: Decimal) -> Option<Decimal> {
    let sum = a.checked_add(b)?;
    let exact = sum.scale() == a.scale().max(b.scale());
    let sum = canonical(sum);
    (exact && sum.mantissa().unsigned_abs() < 10u128.pow(MAX_DIGITS)).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(format: NumberFormat, text: &str, expected: Option<&str>) {
        let found = format.parse(text).map(|number| number.to_string());
        assert_eq!(found.as_deref(), expected, "{text}");
    }

    #[test]
    fn plain_numbers() {
        let plain = NumberFormat::default();
        check(plain, "12.50", Some("12.5"));
        check(plain, "-0", Some("0"));
        check(plain, "+007", Some("7"));
        check(plain, "-0.010", Some("-0.01"));
        check(plain, "9999999999999999999999999999", Some("9999999999999999999999999999"));
        check(plain, "10000000000000000000000000000", None);
        check(plain, "0.0000000000000000000000000001", Some("0.0000000000000000000000000001"));
        for wrong in ["", ".5", "5.", "1e3", "1,000", "0x1", "--1", "+-1", "1 ", "NaN", "١", "-"] {
            check(plain, wrong, None);
        }
    }

    #[test]
    fn european_numbers() {
        let european = NumberFormat { decimal: ',', thousands: Some('.') };
        check(european, "1.234.567,89", Some("1234567.89"));
        check(european, "1234,5", Some("1234.5"));
        check(european, "-1.234", Some("-1234"));
        check(european, "0,125", Some("0.125"));
        for wrong in [
            "12.34,5",
            "1234.567",
            "1..234",
            ".123",
            "1,234.5",
            "1.234,",
            "1,2,3",
            "13.75",
            "9.00",
            "0.125",
            "-0.125",
            "012.345",
            "1.2345",
            "1.234.56",
            "1.234.",
            "1.23.456",
            "1,234.567",
            "12.345,678.9",
        ] {
            check(european, wrong, None);
        }
    }

    #[test]
    fn english_numbers() {
        let english = NumberFormat { decimal: '.', thousands: Some(',') };
        check(english, "1,234,567.89", Some("1234567.89"));
        check(english, "1234567.89", Some("1234567.89"));
        check(english, "13.75", Some("13.75"));
        for wrong in
            ["9,00", "13,75", "1,23,456", "1234,567", "0,125", ",123", "1,234,", "1.234,567", "1.23,4"]
        {
            check(english, wrong, None);
        }
        let spaced = NumberFormat { decimal: ',', thousands: Some('\u{a0}') };
        check(spaced, "1\u{a0}234,5", Some("1234.5"));
        check(spaced, "1\u{a0}23", None);
    }

    #[test]
    fn sums_are_exact_or_none() {
        let number = |text: &str| NumberFormat::default().parse(text).unwrap();
        let check = |a: &str, b: &str, expected: Option<&str>| {
            assert_eq!(add_exactly(number(a), number(b)), expected.map(number), "{a} + {b}");
        };
        check("0.1", "0.2", Some("0.3"));
        check("-0.5", "0.5", Some("0"));
        check("9999999999999999999999999999", "1", None);
        check("1000000000000000000000000000", "0.01", None);
        check("0.0000000000000000000000000001", "1", None);
    }
}
