//! Groups, and the profiles that belong to them.

use serde_json::Value as Json;
use sluicebox_model::{GroupType, Identifier, PropertySchema, Record, RecordId, Schema, SpaceId, property};
use sluicebox_store::{Names, Store};

use crate::error::Error;
use crate::queries::profile::parse;
use crate::queries::view;

/// The groups of a type in a store.
pub(crate) struct Groups<'a> {
    store: &'a Store,
    names: Names,
    schema: &'a Schema,
    group_type: &'a GroupType,
    /// Absent until the first group of the type is imported.
    space: Option<SpaceId>,
}

impl<'a> Groups<'a> {
    /// The groups of a type.
    pub(crate) fn of(store: &'a Store, schema: &'a Schema, group_type: &'a GroupType) -> Self {
        let names = store.names();
        let mut types = names.group_types.iter();
        let space = types.find(|(_, name)| **name == group_type.name).map(|(space, _)| *space);
        Self { store, names, schema, group_type, space }
    }

    /// Calls `take` with each group, in the order of their ids.
    ///
    /// # Errors
    /// If the store or `take` fails.
    pub(crate) fn list(&self, mut take: impl FnMut(Option<Json>) -> Result<(), Error>) -> Result<(), Error> {
        let Some(space) = self.space else { return Ok(()) };
        for entry in self.store.records()? {
            let (id, record) = entry?;
            if record.space == space {
                take(view::group(&self.names, id, &record))?;
            }
        }
        Ok(())
    }

    /// A group, by its id or by `PROPERTY=VALUE` of a unique property.
    ///
    /// # Errors
    /// If there is no such group or property, or the store fails.
    pub(crate) fn get(&self, group: &str) -> Result<Option<Json>, Error> {
        let (id, record) = self.find(group)?;
        Ok(view::group(&self.names, id, &record))
    }

    /// Calls `take` with each profile of a group: those with a property of the name and value of one that identifies the group.
    ///
    /// # Errors
    /// If there is no such group or property, or the store or `take` fails.
    pub(crate) fn members(
        &self,
        group: &str,
        mut take: impl FnMut(Option<Json>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (_, group) = self.find(group)?;
        let unique = unique(self.group_type);
        let shared = unique.filter(|own| property(&self.schema.properties, &own.name).is_some());
        let pairs = shared.filter_map(|own| {
            let of_group = self.group_property(&own.name)?;
            Some((*self.names.profile_properties.get(&own.name)?, group.values(of_group)))
        });
        let pairs: Vec<_> = pairs.collect();
        for entry in self.store.records()? {
            let (id, record) = entry?;
            let is_member = pairs.iter().any(|(property, values)| {
                record
                    .values(*property)
                    .iter()
                    .any(|value| values.iter().any(|own| own.text() == value.text()))
            });
            if is_member && self.names.domain_groups.contains_key(&record.space) {
                take(view::profile(&self.names, id, &record, self.store.events_of(id)?))?;
            }
        }
        Ok(())
    }

    fn find(&self, group: &str) -> Result<(RecordId, Record), Error> {
        let Some(space) = self.space else { return Err(no_group(group)) };
        let id = match group.split_once('=') {
            None => group.parse().ok(),
            Some((name, value)) => {
                let property = property(&self.group_type.properties, name).filter(|property| property.unique);
                let property = property.ok_or_else(|| Error::Unknown {
                    kind: "unique property",
                    name: name.to_owned(),
                    known: unique(self.group_type).map(|property| property.name.clone()).collect(),
                })?;
                let value = parse(property, value)?;
                match self.group_property(name) {
                    Some(id) => self.store.find(&Identifier::new(space, id, &value))?,
                    None => None,
                }
            }
        };
        let found = id.map(|id| self.store.load(id)).transpose()?.flatten();
        found.filter(|(_, record)| record.space == space).ok_or_else(|| no_group(group))
    }

    fn group_property(&self, name: &str) -> Option<sluicebox_model::PropertyId> {
        self.names.group_properties.get(&(self.group_type.name.clone(), name.to_owned())).copied()
    }
}

/// The group type of that name.
///
/// # Errors
/// With the nearest name.
pub(crate) fn find_type<'s>(schema: &'s Schema, name: &str) -> Result<&'s GroupType, Error> {
    schema.group(name).ok_or_else(|| Error::Unknown {
        kind: "group type",
        name: name.to_owned(),
        known: schema.groups.iter().map(|group| group.name.clone()).collect(),
    })
}

/// There is no such group.
pub(crate) fn no_group(group: &str) -> Error {
    Error::NotFound(format!("there is no group `{group}`"))
}

fn unique(group_type: &GroupType) -> impl Iterator<Item = &PropertySchema> {
    group_type.properties.iter().filter(|property| property.unique)
}
