use crate::Failure;

/// A column that a processor reads or adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ColumnId {
    /// The n-th column that it reads.
    Wanted(u32),
    /// The n-th column that it adds.
    Added(u32),
}

/// The columns of a file, from which a processor chooses those that it works on.
#[derive(Debug)]
pub struct Columns {
    header: Vec<String>,
    wanted: Vec<u32>,
    added: Vec<String>,
}

impl Columns {
    pub(crate) fn new(header: Vec<String>) -> Self {
        Self { header, wanted: Vec::new(), added: Vec::new() }
    }

    pub(crate) fn into_parts(self) -> (Vec<u32>, Vec<String>) {
        (self.wanted, self.added)
    }

    /// The names of the file's columns, followed by those that earlier processors added.
    pub fn header(&self) -> &[String] {
        &self.header
    }

    /// Chooses a column to read. The same name gives the same column again.
    ///
    /// # Errors
    /// If no column, or more than one, has that name.
    pub fn want(&mut self, name: &str) -> Result<ColumnId, Failure> {
        let mut places = (0..).zip(&self.header).filter(|(_, column)| *column == name);
        match (places.next(), places.next()) {
            (Some((place, _)), None) => Ok(self.want_place(place)),
            (Some(_), Some(_)) => Err(Failure::config(format!("two columns are named `{name}`"))),
            _ if self.header.is_empty() => Err(Failure::config(format!("there is no column `{name}`"))),
            _ => {
                let names: Vec<String> =
                    self.header.iter().take(20).map(|name| format!("`{name}`")).collect();
                let more = if self.header.len() > 20 { ", …" } else { "" };
                let found = names.join(", ");
                Err(Failure::config(format!("there is no column `{name}`; found {found}{more}")))
            }
        }
    }

    /// Chooses the columns to read that the key `key` of the configuration lists.
    ///
    /// ```
    /// use sluicebox_sdk::{Columns, Failure};
    ///
    /// fn open(names: &[String], columns: &mut Columns) -> Result<(), Failure> {
    ///     let places = columns.want_all("columns", names)?;
    ///     assert_eq!(places.len(), names.len());
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// If the list is empty, or no column, or more than one, has one of the names.
    pub fn want_all(&mut self, key: &str, names: &[String]) -> Result<Vec<ColumnId>, Failure> {
        if names.is_empty() {
            return Err(Failure::expected(key, "at least one name"));
        }
        names.iter().map(|name| self.want(name)).collect()
    }

    /// Chooses a column to read where the configuration names one.
    ///
    /// # Errors
    /// If no column, or more than one, has that name.
    pub fn want_if_named(&mut self, name: Option<&str>) -> Result<Option<ColumnId>, Failure> {
        name.map(|name| self.want(name)).transpose()
    }

    fn want_place(&mut self, place: u32) -> ColumnId {
        if let Some((number, _)) = (0..).zip(&self.wanted).find(|(_, wanted)| **wanted == place) {
            return ColumnId::Wanted(number);
        }
        self.wanted.push(place);
        ColumnId::Wanted(u32::try_from(self.wanted.len() - 1).unwrap_or(u32::MAX))
    }

    /// Adds a column after the last.
    ///
    /// # Errors
    /// If a column has that name, or the name is empty.
    pub fn add(&mut self, name: &str) -> Result<ColumnId, Failure> {
        if name.is_empty() {
            return Err(Failure::config("a column needs a name"));
        }
        if self.header.iter().chain(&self.added).any(|column| column == name) {
            return Err(Failure::config(format!("there is a column `{name}` already")));
        }
        self.added.push(name.to_owned());
        Ok(ColumnId::Added(u32::try_from(self.added.len() - 1).unwrap_or(u32::MAX)))
    }

    /// Chooses a column to read: a column of the file, or one that this processor added. In a batch, an added column has no
    /// cells.
    ///
    /// # Errors
    /// If no column, or more than one, has that name.
    pub fn want_or_added(&mut self, name: &str) -> Result<ColumnId, Failure> {
        if let Some((number, _)) = (0..).zip(&self.added).find(|(_, added)| *added == name) {
            return Ok(ColumnId::Added(number));
        }
        self.want(name)
    }

    /// Chooses a column to write: the column of that name, or a new one.
    ///
    /// # Errors
    /// If the name is empty, or more than one column has it.
    pub fn want_or_add(&mut self, name: &str) -> Result<ColumnId, Failure> {
        let known = self.header.iter().chain(&self.added).any(|column| column == name);
        if known { self.want_or_added(name) } else { self.add(name) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Columns {
        Columns::new(["id", "name", "id"].map(str::to_owned).to_vec())
    }

    #[test]
    fn chooses_the_columns_of_a_list() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let mut columns = file();
        let chosen = columns.want_all("columns", &names(&["name", "name"])).unwrap();
        assert_eq!(chosen, [ColumnId::Wanted(0), ColumnId::Wanted(0)]);
        assert_eq!(columns.into_parts(), (vec![1], Vec::new()));
        let check = |list: &[&str], expected: &str| {
            let failure = file().want_all("columns", &names(list)).unwrap_err();
            assert_eq!(failure, Failure::config(expected));
        };
        check(&[], "columns: expected at least one name");
        check(&["id"], "two columns are named `id`");
        check(&["mail"], "there is no column `mail`; found `id`, `name`, `id`");
    }

    #[test]
    fn a_column_may_be_left_out() {
        assert_eq!(file().want_if_named(None), Ok(None));
        assert_eq!(file().want_if_named(Some("name")), Ok(Some(ColumnId::Wanted(0))));
        assert!(file().want_if_named(Some("mail")).is_err());
    }
}
