//! Numbers, sizes and times for people, on the page and in mails.

/// A number with a narrow space between groups of three digits.
pub(in crate::service) fn grouped(number: u64) -> String {
    indicatif::HumanCount(number).to_string().replace(',', "\u{202f}")
}

/// A number with its noun: "1 row", "2 rows".
pub(in crate::service) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(number), if number == 1 { one } else { many })
}

/// A number of bytes.
pub(super) fn bytes(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// A time span, given in milliseconds.
pub(super) fn span(milliseconds: u64) -> String {
    match milliseconds {
        0..1000 => format!("{milliseconds} ms"),
        1000..60_000 => format!("{}.{} s", milliseconds / 1000, milliseconds % 1000 / 100),
        _ => format!("{} min {} s", milliseconds / 60_000, milliseconds % 60_000 / 1000),
    }
}

/// A moment in UTC to the second, from RFC 3339; other text stays.
pub(super) fn moment(text: &str) -> String {
    match text.parse::<jiff::Timestamp>() {
        Ok(at) => at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        Err(_) => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(grouped(999), "999");
        assert_eq!(count(0, "row", "rows"), "0 rows");
        assert_eq!(count(1, "row", "rows"), "1 row");
        assert_eq!(count(1234, "row", "rows"), "1\u{202f}234 rows");
        assert_eq!(span(61_500), "1 min 1 s");
        assert_eq!(span(1_250), "1.2 s");
        assert_eq!(moment("2026-01-02T03:04:05.678Z"), "2026-01-02 03:04:05 UTC");
    }
}
