use crate::Failure;

/// A column that a processor wanted or added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ColumnId {
    /// The n-th column wanted.
    Wanted(u32),
    /// The n-th column added.
    Added(u32),
}

/// The columns of a file, from which a processor takes those that it works on.
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

    /// Asks for the cells of a column. Asking twice gives the same column.
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
    /// If there is a column of that name, or the name is empty.
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

    /// A column to read: one of the file, or one that this processor added. An added column has no cells of its own
    /// in a batch.
    ///
    /// # Errors
    /// If no column, or more than one, has that name.
    pub fn want_or_added(&mut self, name: &str) -> Result<ColumnId, Failure> {
        if let Some((number, _)) = (0..).zip(&self.added).find(|(_, added)| *added == name) {
            return Ok(ColumnId::Added(number));
        }
        self.want(name)
    }

    /// The column to write to: the one of that name if there is one, else one that is added.
    ///
    /// # Errors
    /// If the name is empty, or more than one column has it.
    pub fn want_or_add(&mut self, name: &str) -> Result<ColumnId, Failure> {
        let known = self.header.iter().chain(&self.added).any(|column| column == name);
        if known { self.want_or_added(name) } else { self.add(name) }
    }
}
