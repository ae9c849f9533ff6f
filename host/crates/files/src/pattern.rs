use regex::{Regex, RegexBuilder};

/// Which files of a folder a goal takes.
#[derive(Clone, Debug)]
pub struct Pattern {
    regex: Regex,
    /// How many folders below the goal's own the pattern reaches into.
    pub depth: usize,
}

/// A pattern that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PatternError {
    /// The wildcard is not well formed.
    #[error("the wildcard has {0}")]
    Wildcard(&'static str),
    /// The regular expression is not well formed.
    #[error("{0}")]
    Regex(#[from] regex::Error),
}

impl Pattern {
    /// Reads a wildcard: `*` any characters but `/`, `?` one, `[…]` a set, `{a,b}` alternatives.
    pub fn wildcard(wildcard: &str) -> Result<Self, PatternError> {
        Ok(Self { regex: compile(&translate(wildcard)?)?, depth: wildcard.matches('/').count() })
    }

    /// Reads a regular expression, which must match the whole name.
    pub fn regex(expression: &str) -> Result<Self, PatternError> {
        Regex::new(expression)?;
        Ok(Self { regex: compile(expression)?, depth: expression.matches('/').count() })
    }

    /// Whether the pattern takes a file of this name. Files that end in `.done` are never taken.
    pub fn matches(&self, name: &str) -> bool {
        !name.ends_with(".done") && self.regex.is_match(name)
    }
}

fn compile(expression: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(&format!("^(?:{expression})$")).dot_matches_new_line(true).size_limit(4 << 20).build()
}

fn translate(wildcard: &str) -> Result<String, PatternError> {
    let mut regex = String::new();
    let mut open_braces = 0;
    let mut characters = wildcard.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '*' => regex.push_str("([^/]*)"),
            '?' => regex.push_str("([^/])"),
            '[' => {
                let mut set = String::new();
                let negated = characters.next_if(|next| matches!(next, '!' | '^')).is_some();
                loop {
                    match characters.next() {
                        Some(']') if !set.is_empty() => break,
                        Some('-') => set.push('-'),
                        Some(member) => set.push_str(&regex::escape(&member.to_string())),
                        None => return Err(PatternError::Wildcard("a `[` without `]`")),
                    }
                }
                let negation = if negated { "^/" } else { "" };
                regex.push_str(&format!("([{negation}{set}])"));
            }
            '{' => {
                open_braces += 1;
                regex.push_str("((?:");
            }
            '}' if open_braces > 0 => {
                open_braces -= 1;
                regex.push_str("))");
            }
            ',' if open_braces > 0 => regex.push_str(")|(?:"),
            other => regex.push_str(&regex::escape(&other.to_string())),
        }
    }
    if open_braces > 0 {
        return Err(PatternError::Wildcard("a `{` without `}`"));
    }
    Ok(regex)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(wildcard: &str, taken: &[&str], left: &[&str]) {
        let pattern = Pattern::wildcard(wildcard).unwrap();
        for name in taken {
            assert!(pattern.matches(name), "{wildcard} takes {name}");
        }
        for name in left {
            assert!(!pattern.matches(name), "{wildcard} leaves {name}");
        }
    }

    #[test]
    fn wildcards() {
        check(
            "customers_*.csv*",
            &["customers_1.csv", "customers_.csv.gz"],
            &["customers_1.csv.done", "a/customers_1.csv", "xcustomers_1.csv"],
        );
        check("a?[0-9].{csv,txt}", &["ab1.csv", "aé9.txt"], &["ab.csv", "abx.csv", "ab1.tsv", "a/1.csv"]);
        check("[!a]+(x).csv", &["b+(x).csv"], &["a+(x).csv"]);
        check("in/*.csv", &["in/a.csv"], &["in/b/a.csv", "a.csv"]);
        check("plain.csv", &["plain.csv"], &["plainxcsv"]);
    }

    #[test]
    fn regexes_match_the_whole_name() {
        let pattern = Pattern::regex(r"a\d+|b").unwrap();
        assert!(
            pattern.matches("a12")
                && pattern.matches("b")
                && !pattern.matches("xb")
                && !pattern.matches("a1b")
        );
        assert!(
            Pattern::regex("(").is_err()
                && Pattern::wildcard("[").is_err()
                && Pattern::wildcard("{a").is_err()
        );
    }
}
