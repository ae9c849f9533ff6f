//! Names of files that others may have already: `all.csv.gz`, `all_2.csv.gz`, `all_3.csv.gz`, …

use std::fmt;

/// Extensions that say how a file is packed: one more comes before them.
const PACKED: [&str; 7] = ["gz", "zst", "bz2", "xz", "pgp", "gpg", "asc"];

/// The name of a file, with the number that tells it from others of its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileName {
    stem: String,
    /// With their dots.
    extensions: String,
    /// 1 is not part of the name.
    number: u64,
}

impl FileName {
    /// A name without a number.
    pub fn new(name: &str) -> Self {
        let before_dot = |name: &'_ str| match name.rsplit_once('.') {
            Some((before, extension)) if !before.is_empty() => Some((before.len(), extension.to_lowercase())),
            _ => None,
        };
        let (mut stem, mut is_packed) = (name, true);
        while is_packed && let Some((end, extension)) = before_dot(stem) {
            is_packed = PACKED.contains(&extension.as_str());
            stem = name.get(..end).unwrap_or(name);
        }
        let extensions = name.strip_prefix(stem).unwrap_or_default();
        Self { stem: stem.to_owned(), extensions: extensions.to_owned(), number: 1 }
    }

    /// This name with another number.
    fn numbered(&self, number: u64) -> Self {
        Self { number, ..self.clone() }
    }

    /// The name with the next number that no file has. Where names are taken without a gap, it is the smallest, and
    /// few are looked up.
    pub(super) fn next(&self, is_taken: impl Fn(&str) -> bool) -> Self {
        self.numbered(self.number + 1).free(is_taken)
    }

    /// This name if no file has it, or the one with the next number that no file has.
    pub(super) fn free(self, is_taken: impl Fn(&str) -> bool) -> Self {
        let is_taken = |number: u64| is_taken(&self.numbered(number).to_string());
        if !is_taken(self.number) {
            return self;
        }
        let (mut taken, mut step) = (self.number, 1);
        while is_taken(taken + step) {
            taken += step;
            step *= 2;
        }
        let mut free = taken + step;
        while free - taken > 1 {
            let between = taken + (free - taken) / 2;
            if is_taken(between) { taken = between } else { free = between }
        }
        self.numbered(free)
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            1 => write!(f, "{}{}", self.stem, self.extensions),
            number => write!(f, "{}_{number}{}", self.stem, self.extensions),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_comes_before_the_extensions() {
        let check = |name: &str, second: &str| {
            let name = FileName::new(name);
            assert_eq!(name.next(|_| false).to_string(), second);
        };
        check("all.csv", "all_2.csv");
        check("all.csv.gz", "all_2.csv.gz");
        check("all.csv.zst.pgp", "all_2.csv.zst.pgp");
        check("acme.v1.CSV.GZ", "acme.v1_2.CSV.GZ");
        check("all", "all_2");
        check("all.gz", "all_2.gz");
        check(".csv", ".csv_2");
        check("", "_2");
    }

    #[test]
    fn a_free_name_follows_a_taken_one() {
        let check = |taken: &[&str], expected: &str| {
            let free = FileName::new("a.csv").free(|name| taken.contains(&name));
            assert_eq!(free.to_string(), expected);
        };
        check(&[], "a.csv");
        check(&["a_2.csv"], "a.csv");
        check(&["a.csv"], "a_2.csv");
        check(&["a.csv", "a_2.csv"], "a_3.csv");
        let many: Vec<String> =
            (1..500).map(|number| FileName::new("a.csv").numbered(number).to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        check(&many, "a_500.csv");
        check(&many[..57], "a_58.csv");
    }
}
