//! What was not taken, counted by kind: which codes, in which columns, how often, and where first. It never says what a cell holds.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Kinds of faults that a report lists.
const MAX_REPORTED: usize = 20;
/// Kinds of faults that are counted: processors choose codes, and files have any number of columns.
const MAX_KINDS: usize = 1000;

/// A kind of fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Fault {
    /// The `_code` of the rows.
    pub code: String,
    /// The column of the cells; absent where whole rows were not taken.
    pub column: Option<String>,
    /// How many rows or cells have it.
    pub count: u64,
    /// The file of the first one.
    pub file: String,
    /// The physical line where the first one begins.
    pub line: u64,
}

/// Counts faults by kind.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// By column and code.
    kinds: HashMap<Option<String>, HashMap<String, Fault>>,
    count: usize,
}

impl Faults {
    /// Counts a fault.
    pub(crate) fn add(&mut self, code: &str, column: Option<&str>, file: &str, line: u64) {
        let of_column = self.kinds.entry(column.map(str::to_owned)).or_default();
        if let Some(fault) = of_column.get_mut(code) {
            fault.count += 1;
        } else if self.count < MAX_KINDS {
            self.count += 1;
            let column = column.map(str::to_owned);
            let (code, file) = (code.to_owned(), file.to_owned());
            of_column.insert(code.clone(), Fault { code, column, count: 1, file, line });
        }
    }

    /// The most frequent kinds, the first of them first.
    pub(crate) fn most_frequent(&self) -> Vec<Fault> {
        let mut faults: Vec<Fault> = self.kinds.values().flat_map(HashMap::values).cloned().collect();
        faults.sort_by(|one, other| {
            let place =
                |fault: &Fault| (fault.file.clone(), fault.line, fault.column.clone(), fault.code.clone());
            other.count.cmp(&one.count).then_with(|| place(one).cmp(&place(other)))
        });
        faults.truncate(MAX_REPORTED);
        faults
    }
}

impl Fault {
    /// What it is and where first, for people: "3 × not-a-number in `age`, first in customers.csv, line 7".
    pub(crate) fn line(&self) -> String {
        let column = self.column.as_ref().map(|column| format!(" in `{column}`")).unwrap_or_default();
        format!("{} × {}{column}, first in {}, line {}", self.count, self.code, self.file, self.line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_kinds_come_first_with_their_first_place() {
        let mut faults = Faults::default();
        faults.add("ragged", None, "b.csv", 9);
        for line in [4, 7] {
            faults.add("not-a-number", Some("age"), "a.csv", line);
        }
        faults.add("not-a-date", Some("age"), "a.csv", 5);
        let lines: Vec<String> = faults.most_frequent().iter().map(Fault::line).collect();
        assert_eq!(
            lines,
            [
                "2 × not-a-number in `age`, first in a.csv, line 4",
                "1 × not-a-date in `age`, first in a.csv, line 5",
                "1 × ragged, first in b.csv, line 9",
            ]
        );
    }

    #[test]
    fn any_number_of_kinds_takes_bounded_memory() {
        let mut faults = Faults::default();
        for code in 0..3 * MAX_KINDS {
            faults.add(&code.to_string(), None, "a.csv", 1);
        }
        assert_eq!((faults.count, faults.most_frequent().len()), (MAX_KINDS, MAX_REPORTED));
    }
}
