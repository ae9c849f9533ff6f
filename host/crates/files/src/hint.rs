//! Likely reasons why a file lacks a column.

use unicode_normalization::UnicodeNormalization;

/// What else may separate cells.
const DELIMITERS: [(char, &str); 4] = [(';', ";"), ('\t', "\\t"), ('|', "|"), (',', ",")];

/// Why a file may lack a column, and what to do about it, as far as the names of its columns tell.
pub fn missing_column_hint(columns: &[String], wanted: &str) -> Option<String> {
    if let [only] = columns {
        let split = DELIMITERS.into_iter().find(|(delimiter, _)| only.split(*delimiter).nth(1).is_some());
        if let Some((_, shown)) = split {
            return Some(format!(
                "the header is one column that has `{shown}` in it: set delimiter = \"{shown}\" in the goal's csv"
            ));
        }
    }
    let composed = |name: &str| name.nfc().collect::<String>();
    let near = columns.iter().find(|column| *column != wanted && visible(column) == visible(wanted))?;
    if composed(near) == composed(wanted) {
        return Some(format!(
            "the file has `{near}` in another Unicode form (composed or decomposed letters): copy the name from the file"
        ));
    }
    Some(format!("the file has `{near}` with characters that cannot be seen: `{}`", near.escape_default()))
}

/// Whether the names look like the cells of a row of data, as in a file without a header.
pub fn looks_like_data(columns: &[String]) -> bool {
    let is_data = |cell: &String| {
        let digits = cell.chars().filter(char::is_ascii_digit).count();
        cell.contains('@') || (digits >= 5 && digits * 2 > cell.chars().count())
    };
    columns.iter().any(is_data)
}

/// A name as it looks: composed, without characters that cannot be seen, and with plain spaces.
fn visible(name: &str) -> String {
    let is_hidden = |c: &char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}' | '\u{feff}')
    };
    let space = |c: char| if c.is_whitespace() { ' ' } else { c };
    name.nfc().filter(|c| !is_hidden(c)).map(space).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(columns: &[&str], wanted: &str, expected: Option<&str>) {
        let columns: Vec<String> = columns.iter().map(|column| (*column).to_owned()).collect();
        let hint = missing_column_hint(&columns, wanted);
        match expected {
            Some(expected) => assert!(hint.as_ref().is_some_and(|hint| hint.contains(expected)), "{hint:?}"),
            None => assert_eq!(hint, None),
        }
    }

    #[test]
    fn likely_reasons_are_named() {
        check(&["id;a"], "id", Some("set delimiter = \";\""));
        check(&["id\ta"], "id", Some("set delimiter = \"\\t\""));
        check(&["id|a"], "id", Some("set delimiter = \"|\""));
        check(&["nai\u{308}f"], "na\u{ef}f", Some("in another Unicode form"));
        check(&["id", "\u{feff}email"], "email", Some("`\\u{feff}email`"));
        check(&["first\u{a0}name"], "first name", Some("cannot be seen"));
        check(&["id", "mail"], "email", None);
        check(&["id"], "email", None);
    }

    #[test]
    fn data_is_not_a_header() {
        let looks =
            |columns: &[&str]| looks_like_data(&columns.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>());
        assert!(looks(&["b@example.com", "Bob"]) && looks(&["Bob", "0612345678"]) && looks(&["2026-01-02"]));
        assert!(!looks(&["email", "address_1", "2026", "spend in 2025"]));
    }
}
