//! Lists of values in one cell: joined on export, split on import.

/// Appends a value of a list. A separator in it gets `escape` before it; so does an escape that would otherwise be read as
/// one. Returns whether the value has a separator in it.
pub fn append_list_value(value: &str, separator: &str, escape: Option<char>, out: &mut String) -> bool {
    let has_separator = !separator.is_empty() && value.contains(separator);
    let Some(escape) = escape.filter(|escape| has_separator || value.contains(*escape)) else {
        out.push_str(value);
        return has_separator;
    };
    let mut rest = value;
    while let Some(character) = rest.chars().next() {
        let (here, after) = rest.split_at_checked(character.len_utf8()).unwrap_or((rest, ""));
        let is_separator = !separator.is_empty() && rest.starts_with(separator);
        let is_read_as_escape = character == escape
            && (after.is_empty() || after.starts_with(escape) || after.starts_with(separator));
        if is_separator || is_read_as_escape {
            out.push(escape);
        }
        let (part, after) = if is_separator {
            rest.split_at_checked(separator.len()).unwrap_or((rest, ""))
        } else {
            (here, after)
        };
        out.push_str(part);
        rest = after;
    }
    has_separator
}

/// Splits a cell into the values of a list, without trimming them. An `escape` before a separator or another escape makes that
/// literal; before other characters it is a character.
pub fn split_list(cell: &str, separator: &str, escape: Option<char>, mut take: impl FnMut(&str)) {
    let Some(escape) = escape.filter(|escape| cell.contains(*escape)) else {
        return cell.split(separator).for_each(take);
    };
    let (mut value, mut rest) = (String::new(), cell);
    while let Some(character) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix(separator) {
            take(&value);
            value.clear();
            rest = after;
            continue;
        }
        let after = rest.get(character.len_utf8()..).unwrap_or_default();
        if character == escape {
            if let Some(beyond) = after.strip_prefix(separator) {
                value.push_str(separator);
                rest = beyond;
                continue;
            }
            if let Some(beyond) = after.strip_prefix(escape) {
                value.push(escape);
                rest = beyond;
                continue;
            }
        }
        value.push(character);
        rest = after;
    }
    take(&value);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn joined(values: &[&str], separator: &str, escape: Option<char>) -> String {
        let mut cell = String::new();
        for (place, value) in values.iter().enumerate() {
            if place > 0 {
                cell.push_str(separator);
            }
            append_list_value(value, separator, escape, &mut cell);
        }
        cell
    }

    fn split(cell: &str, separator: &str, escape: Option<char>) -> Vec<String> {
        let mut values = Vec::new();
        split_list(cell, separator, escape, |value| values.push(value.to_owned()));
        values
    }

    #[test]
    fn separators_in_values_are_escaped() {
        let escape = Some('\\');
        assert_eq!(joined(&["red|blue", "a\\b", "c"], "|", escape), "red\\|blue|a\\b|c");
        assert_eq!(joined(&["a\\", "b"], "|", escape), "a\\\\|b");
        assert_eq!(joined(&["red|blue", "c"], "|", None), "red|blue|c");
        assert_eq!(split("red\\|blue|a\\b|c", "|", escape), ["red|blue", "a\\b", "c"]);
        assert_eq!(split("a\\|b", "|", None), ["a\\", "b"]);
        assert!(append_list_value("a|b", "|", escape, &mut String::new()));
        assert!(!append_list_value("a\\", "|", escape, &mut String::new()));
    }

    proptest! {
        #[test]
        fn lists_come_back(
            values in prop::collection::vec("[a|;, \\\\é]{0,6}", 1..5),
            separator in prop::sample::select(vec!["|", ", ", ";", "é"]),
        ) {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            prop_assert_eq!(split(&joined(&values, separator, Some('\\')), separator, Some('\\')), values);
        }
    }
}
