//! Resolves a goal's mappings against the columns of one file and the store's dictionary.

use std::collections::HashSet;

use jiff::Timestamp;
use sluicebox_matching::{EventPlan, FieldPlan, IdentifierPlan, NestedPlan, Plan, ValuePlan};
use sluicebox_model::{
    CONSENTED, CellFormat, PropertyId, PropertySchema, REFUSED, Schema, TimeFormat, Value, ValueType,
    property,
};
use sluicebox_store::{Owner, Store};

use crate::config::{Connection, EventEntry, ImportGoal, NestedEntry, Target, ValueEntry, nearest};
use crate::error::Error;

/// A goal's mappings, and the places of what they name.
pub(crate) struct Resolver<'a> {
    pub connection: &'a Connection,
    pub goal: &'a ImportGoal,
    pub schema: &'a Schema,
    pub store: &'a Store,
}

/// What a goal does with a root file of some columns.
pub(crate) struct Resolved {
    pub plan: Plan,
    /// What of it is not as the operator may expect.
    pub warnings: Vec<String>,
    /// The properties that the bulk mapping writes.
    pub bulk: Vec<PropertySchema>,
    /// The linked files of the root file, and the places of the columns that link them.
    pub links: Vec<Link>,
}

/// A linked file below another file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    /// The place of the linked file in the goal.
    pub file: usize,
    /// The place of the column of the parent file that holds the value.
    pub column: usize,
}

/// The columns of a linked file that a goal uses, in the order in which its rows are kept.
pub(crate) struct LinkedColumns {
    columns: Vec<(String, bool)>,
    /// Whether a bulk mapping takes columns of it.
    bulk: bool,
    /// Where the linking value is among them.
    pub link: usize,
    /// The linked files below it.
    pub links: Vec<Link>,
}

impl LinkedColumns {
    /// The places of these columns in a file; `None` for one that only a bulk mapping would take.
    ///
    /// # Errors
    /// If the file lacks a column, or has one twice that the goal uses.
    pub(crate) fn places(&self, file: &str, columns: &[String]) -> Result<Vec<Option<usize>>, Error> {
        let failed = |message| Error::Columns { name: file.to_owned(), message };
        let wanted = self.columns.iter().map(|(name, required)| match columns.contains(name) || *required {
            true => place(columns, name).map(Some).map_err(failed),
            false => Ok(None),
        });
        wanted.collect()
    }

    /// The columns of a file that its bulk mappings find no property for.
    pub(crate) fn skipped<'c>(&self, columns: &'c [String]) -> impl Iterator<Item = &'c String> {
        let known = |name: &str| self.columns.iter().any(|(column, _)| column == name);
        columns.iter().filter(move |name| self.bulk && !name.is_empty() && !known(name))
    }

    fn place(&self, name: &str) -> usize {
        self.columns.iter().position(|(column, _)| column == name).unwrap_or_default()
    }
}

impl Resolver<'_> {
    /// What the goal does with a file of these columns.
    ///
    /// # Errors
    /// If the file lacks a column, or has one twice that the goal uses.
    pub(crate) fn root(&self, file: &str, columns: &[String]) -> Result<Resolved, Error> {
        let column = |name: &str| {
            place(columns, name).map_err(|message| Error::Columns { name: file.to_owned(), message })
        };
        let (goal, owner) = (self.goal, self.goal.target.owner());
        let mut identifiers = Vec::new();
        for entry in &goal.identifiers {
            let property = entry.property.as_ref();
            identifiers.push(IdentifierPlan {
                column: column(&entry.column)?,
                property: property.map(|property| self.store.property(owner, &property.name)).transpose()?,
                multiple: property.is_some_and(|property| property.multiple),
                format: self.format(property.map_or(ValueType::Text, |property| property.value_type), None),
            });
        }
        let mut fields = Vec::new();
        for entry in &goal.fields {
            fields.push(FieldPlan {
                column: column(&entry.column)?,
                property: self.store.property(owner, &entry.property.name)?,
                rule: entry.rule,
                separator: entry.separator.clone(),
                multiple: entry.property.multiple,
                unique: entry.property.unique,
                format: self.format(entry.property.value_type, entry.format.as_ref()),
            });
        }
        let (bulk, warnings) = self.bulk(file, columns, &mut fields)?;
        fields.sort_by_key(|field| field.property);
        let links = self.goal.linked.iter().enumerate().filter(|(_, linked)| linked.parent.is_none());
        let links = links.map(|(file, linked)| Ok(Link { file, column: column(&linked.parent_column)? }));
        let links = links.collect::<Result<_, Error>>()?;
        let events = goal.events.iter().map(|event| self.event(event, columns, &column));
        let (space, objectives) = match &goal.target {
            Target::Profiles(name) => (self.store.domain_group(name)?, self.connection.objectives.as_slice()),
            // Consent is a person's: groups have none.
            Target::Groups(name) => (self.store.group_type(name)?, &[][..]),
        };
        let plan = Plan {
            space,
            hasher: self.store.hasher(),
            identifiers,
            fields,
            events: events.collect::<Result<_, Error>>()?,
            create: goal.create,
            on_ambiguous: goal.on_ambiguous,
            objectives: objectives.iter().map(|name| Value::Text(name.as_str().into())).collect(),
            consented: self.store.property(Owner::Profile, CONSENTED)?,
            refused: self.store.property(Owner::Profile, REFUSED)?,
            unique: unique(self.schema, self.store)?,
        };
        Ok(Resolved { plan, warnings, bulk, links })
    }

    /// Adds every column that nothing else names, and answers with the properties that they write.
    fn bulk(
        &self,
        file: &str,
        columns: &[String],
        fields: &mut Vec<FieldPlan>,
    ) -> Result<(Vec<PropertySchema>, Vec<String>), Error> {
        let (mut bulk, mut warnings) = (Vec::new(), Vec::new());
        let Some(all) = &self.goal.all_fields else { return Ok((bulk, warnings)) };
        let (properties, owner) = (self.goal.target.properties(self.schema), self.goal.target.owner());
        let mut seen = self.named(None);
        for (place, name) in columns.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            if !seen.insert(name) {
                continue;
            }
            let target = format!("{}{name}", all.prefix);
            let Some(property) = property(properties, &target) else {
                warnings.push(format!(
                    "{file}: column `{name}` is skipped: schema.toml has no property `{target}`"
                ));
                continue;
            };
            if let Some(misfit) = all.rule.misfit(property) {
                warnings.push(format!("{file}: column `{name}` is skipped: property `{target}`: {misfit}"));
                continue;
            }
            if columns.iter().filter(|other| *other == name).count() > 1 {
                let message = format!("two columns are named `{name}`");
                return Err(Error::Columns { name: file.to_owned(), message });
            }
            fields.push(FieldPlan {
                column: place,
                property: self.store.property(owner, &property.name)?,
                rule: all.rule,
                separator: None,
                multiple: property.multiple,
                unique: property.unique,
                format: self.format(property.value_type, None),
            });
            bulk.push(property.clone());
        }
        Ok((bulk, warnings))
    }

    /// The columns of a file that identifiers, fields, links, and events' ids and times name.
    fn named(&self, file: Option<usize>) -> HashSet<&str> {
        let goal = self.goal;
        let mut named = HashSet::new();
        if file.is_none() {
            named.extend(goal.identifiers.iter().map(|entry| entry.column.as_str()));
            named.extend(goal.fields.iter().map(|entry| entry.column.as_str()));
        }
        for (place, linked) in goal.linked.iter().enumerate() {
            if Some(place) == file {
                named.insert(linked.column.as_str());
            }
            if linked.parent == file {
                named.insert(linked.parent_column.as_str());
            }
        }
        for event in goal.events.iter().filter(|event| event.file == file) {
            named.insert(event.time.as_str());
            named.extend(event.id.as_deref());
        }
        named
    }

    /// The columns of a linked file that the goal uses. They depend on the configuration alone, so that several files
    /// of one pattern give rows of one shape.
    pub(crate) fn linked(&self, file: usize) -> LinkedColumns {
        let mut columns: Vec<(String, bool)> = Vec::new();
        let mut need =
            |name: &str, required: bool| match columns.iter_mut().find(|(column, _)| column == name) {
                Some((_, needed)) => *needed |= required,
                None => columns.push((name.to_owned(), required)),
            };
        let goal = self.goal;
        if let Some(linked) = goal.linked.get(file) {
            need(&linked.column, true);
        }
        for child in goal.linked.iter().filter(|child| child.parent == Some(file)) {
            need(&child.parent_column, true);
        }
        let named = self.named(Some(file));
        let mut bulk = false;
        let mut values = |fields: &[ValueEntry], all: bool, properties: &[PropertySchema]| {
            bulk |= all;
            fields.iter().for_each(|field| need(&field.column, true));
            if all {
                let bulk = properties.iter().filter(|property| !named.contains(property.name.as_str()));
                bulk.for_each(|property| need(&property.name, false));
            }
        };
        for event in &goal.events {
            if event.file == Some(file) {
                values(&event.fields, event.all_fields, event.properties(self.schema));
            }
            for nested in event.nested.iter().filter(|nested| nested.file == file) {
                values(&nested.fields, nested.all_fields, nested.properties(&event.event_type, self.schema));
            }
        }
        for event in goal.events.iter().filter(|event| event.file == Some(file)) {
            need(&event.time, true);
            event.id.iter().for_each(|id| need(id, true));
        }
        let mut linked = LinkedColumns { columns, bulk, link: 0, links: Vec::new() };
        linked.link = goal.linked.get(file).map(|own| linked.place(&own.column)).unwrap_or_default();
        let children = goal.linked.iter().enumerate().filter(|(_, child)| child.parent == Some(file));
        linked.links =
            children.map(|(file, child)| Link { file, column: linked.place(&child.parent_column) }).collect();
        linked
    }

    fn event(
        &self,
        entry: &EventEntry,
        root: &[String],
        column_of_root: &dyn Fn(&str) -> Result<usize, Error>,
    ) -> Result<EventPlan, Error> {
        let linked = entry.file.map(|file| self.linked(file));
        let column = |name: &str| match &linked {
            Some(linked) => Ok(linked.place(name)),
            None => column_of_root(name),
        };
        let held = |name: &str| match &linked {
            Some(linked) => linked.columns.iter().any(|(column, _)| column == name),
            None => root.iter().any(|column| column == name),
        };
        let owner = Owner::Event(&entry.event_type);
        let named = self.named(entry.file);
        let properties = entry.properties(self.schema);
        let bulk = entry.all_fields.then_some(properties);
        let nested = entry.nested.iter().map(|nested| self.nested(entry, nested));
        Ok(EventPlan {
            event_type: self.store.event_type(&entry.event_type)?,
            path: entry.path.clone(),
            id: entry.id.as_deref().map(column).transpose()?,
            time: column(&entry.time)?,
            time_format: self.format(ValueType::DateTime, entry.time_format.as_ref()),
            fields: self.values(owner, &entry.fields, bulk, &named, &held, &column)?,
            nested: nested.collect::<Result<_, Error>>()?,
            keep_from: entry.keep_from(self.schema, Timestamp::now()),
            product_store: entry.product_store,
        })
    }

    fn nested(&self, event: &EventEntry, entry: &NestedEntry) -> Result<NestedPlan, Error> {
        let linked = self.linked(entry.file);
        let column = |name: &str| Ok(linked.place(name));
        let held = |name: &str| linked.columns.iter().any(|(column, _)| column == name);
        let owner = Owner::Nested(&event.event_type, &entry.name);
        let named = self.named(Some(entry.file));
        let bulk = entry.all_fields.then(|| entry.properties(&event.event_type, self.schema));
        Ok(NestedPlan {
            nested_type: self.store.nested_type(&event.event_type, &entry.name)?,
            path: entry.path.clone(),
            fields: self.values(owner, &entry.fields, bulk, &named, &held, &column)?,
        })
    }

    /// The columns that give the properties of an event or a nested row.
    fn values(
        &self,
        owner: Owner<'_>,
        fields: &[ValueEntry],
        bulk: Option<&[PropertySchema]>,
        named: &HashSet<&str>,
        held: &dyn Fn(&str) -> bool,
        column: &dyn Fn(&str) -> Result<usize, Error>,
    ) -> Result<Vec<ValuePlan>, Error> {
        let value =
            |name: &str, property: &PropertySchema, separator: Option<&String>, time: Option<&String>| {
                Ok::<_, Error>(ValuePlan {
                    column: column(name)?,
                    property: self.store.property(owner, &property.name)?,
                    separator: separator.cloned(),
                    multiple: property.multiple,
                    format: self.format(property.value_type, time),
                })
            };
        let mut values = Vec::new();
        for field in fields {
            values.push(value(
                &field.column,
                &field.property,
                field.separator.as_ref(),
                field.format.as_ref(),
            )?);
        }
        for property in bulk.unwrap_or_default() {
            let taken = fields
                .iter()
                .any(|field| field.column == property.name || field.property.name == property.name);
            if held(&property.name) && !taken && !named.contains(property.name.as_str()) {
                values.push(value(&property.name, property, None, None)?);
            }
        }
        values.sort_by_key(|value| value.property);
        Ok(values)
    }

    fn format(&self, value_type: ValueType, time: Option<&String>) -> CellFormat {
        CellFormat {
            value_type,
            number: self.goal.number,
            time: time.map_or(TimeFormat::Standard, |format| TimeFormat::Custom(format.clone())),
            timezone: self.goal.timezone.clone(),
        }
    }
}

/// The properties whose values identify, sorted.
///
/// # Errors
/// If the store fails.
pub(crate) fn unique(schema: &Schema, store: &Store) -> Result<Vec<PropertyId>, Error> {
    let mut ids = identifying(schema)
        .map(|(owner, property)| store.property(owner, &property.name))
        .collect::<Result<Vec<_>, _>>()?;
    ids.sort_unstable();
    Ok(ids)
}

/// The same, of those that the store has met.
pub(crate) fn known_unique(schema: &Schema, store: &Store) -> Vec<PropertyId> {
    let mut ids: Vec<PropertyId> = identifying(schema)
        .filter_map(|(owner, property)| store.known_property(owner, &property.name))
        .collect();
    ids.sort_unstable();
    ids
}

fn identifying(schema: &Schema) -> impl Iterator<Item = (Owner<'_>, &PropertySchema)> {
    let of_profiles = schema.properties.iter().map(|property| (Owner::Profile, property));
    let of_groups = schema
        .groups
        .iter()
        .flat_map(|group| group.properties.iter().map(|property| (Owner::Group(&group.name), property)));
    of_profiles.chain(of_groups).filter(|(_, property)| property.unique)
}

/// The place of a column that must be there, once.
fn place(columns: &[String], name: &str) -> Result<usize, String> {
    let mut places = columns.iter().enumerate().filter(|(_, column)| *column == name);
    match (places.next(), places.next()) {
        (Some((place, _)), None) => Ok(place),
        (Some(_), Some(_)) => Err(format!("two columns are named `{name}`")),
        _ => {
            const SHOWN: usize = 20;
            let mut found =
                columns.iter().take(SHOWN).map(|column| format!("`{column}`")).collect::<Vec<_>>().join(", ");
            if columns.len() > SHOWN {
                found.push_str(&format!(" and {} more", columns.len() - SHOWN));
            }
            let near = nearest(name, columns.iter().map(String::as_str));
            let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            Err(format!("the file has no column `{name}`; found {found}{hint}"))
        }
    }
}
