//! Resolves a goal's mappings with the columns of one file and the store's dictionary.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use sluicebox_matching::{EventPlan, FieldPlan, IdentifierPlan, NestedPlan, Plan, ValuePlan};
use sluicebox_model::{
    CONSENTED, CellFormat, OrNever, PropertyId, PropertySchema, REFUSED, Schema, TimeFormat, Value, ValueType,
};
use sluicebox_store::{Owner, Store};

use crate::config::{Connection, EventEntry, ImportGoal, NestedEntry, Target, ValueEntry, may_follow};
use crate::error::Error;
use crate::import::columns::{Link, LinkedColumns, MAX_SKIPPED, find_column, shortened};
use crate::output::counted;

/// What a goal's mappings are resolved with.
pub(crate) struct Resolver<'a> {
    pub connection: &'a Connection,
    pub goal: &'a ImportGoal,
    pub schema: &'a Schema,
    /// How many other profiles may be merged into one in a run.
    pub merge_limit: u32,
    pub store: &'a Store,
}

/// What a goal does with a root file of given columns.
pub(crate) struct Resolved {
    pub plan: Plan,
    /// What the operator may not expect.
    pub warnings: Vec<String>,
    /// The properties that the bulk mapping writes.
    pub bulk: Vec<PropertySchema>,
    /// The linked files of the root file.
    pub links: Vec<Link>,
}

/// What the bulk mapping takes of a file.
pub(crate) struct Bulk<'a> {
    /// Columns by their places, and the property that each writes.
    pub columns: Vec<(usize, &'a PropertySchema)>,
    /// The columns that are skipped, with the reason.
    pub warnings: Vec<String>,
}

/// `1 more column is`, `2 more columns are`.
pub(crate) fn are(more: usize) -> String {
    format!("{} {}", counted(more as u64, "more column"), if more == 1 { "is" } else { "are" })
}

impl<'a> Resolver<'a> {
    /// What the goal does with a root file of these columns.
    ///
    /// # Errors
    /// If the file lacks a column, or has one twice that the goal uses.
    pub(crate) fn root(&self, file: &str, columns: &[String]) -> Result<Resolved, Error> {
        let column = |name: &str| find_column(file, columns, name);
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
                separator_escape: entry.separator_escape,
                multiple: entry.property.multiple,
                unique: entry.property.unique,
                format: self.format(entry.property.value_type, entry.format.as_ref()),
            });
        }
        let Bulk { columns: bulk, warnings } = self.bulk(file, columns)?;
        for (place, property) in &bulk {
            fields.push(self.bulk_field(*place, property)?);
        }
        fields.sort_by_key(|field| field.property);
        let links = self.goal.linked.iter().enumerate().filter(|(_, linked)| linked.parent.is_none());
        let links = links.map(|(file, linked)| Ok(Link { file, column: column(&linked.parent_column)? }));
        let links = links.collect::<Result<_, Error>>()?;
        let events = goal.events.iter().map(|event| self.event(event, columns, &column));
        let (space, objectives) = match &goal.target {
            Target::Profiles(name) => (self.store.domain_group(name)?, self.connection.objectives.as_slice()),
            // Persons consent, groups do not.
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
            merge_limit: self.merge_limit,
            objectives: objectives.iter().map(|name| Value::Text(name.as_str().into())).collect(),
            consented: self.store.property(Owner::Profile, CONSENTED)?,
            refused: self.store.property(Owner::Profile, REFUSED)?,
            unique: unique(self.schema, self.store)?,
        };
        let bulk = bulk.into_iter().map(|(_, property)| property.clone()).collect();
        Ok(Resolved { plan, warnings, bulk, links })
    }

    /// The columns that nothing else names, with the properties that the bulk mapping writes.
    ///
    /// # Errors
    /// If the file has one of them twice.
    pub(crate) fn bulk(&self, file: &str, columns: &[String]) -> Result<Bulk<'a>, Error> {
        let mut bulk = Bulk { columns: Vec::new(), warnings: Vec::new() };
        let Some(all) = &self.goal.all_fields else { return Ok(bulk) };
        let properties = self.goal.target.properties(self.schema);
        // A file may have a hundred thousand columns.
        let properties: HashMap<&str, &PropertySchema> =
            properties.iter().rev().map(|property| (property.name.as_str(), property)).collect();
        let mut places: HashMap<&str, Vec<usize>> = HashMap::with_capacity(columns.len());
        for (place, name) in columns.iter().enumerate() {
            places.entry(name).or_default().push(place);
        }
        let (mut seen, mut skipped) = (self.named(None), 0);
        for name in columns.iter().filter(|name| !name.is_empty()) {
            if !seen.insert(name) {
                continue;
            }
            let target = format!("{}{name}", all.prefix);
            let mut skip = |reason: &str| {
                skipped += 1;
                if skipped <= MAX_SKIPPED {
                    bulk.warnings.push(format!("{file}: column `{}` is skipped: {reason}", shortened(name)));
                }
            };
            let Some(property) = properties.get(target.as_str()).copied() else {
                skip(&format!("schema.toml has no property `{}`", shortened(&target)));
                continue;
            };
            if let Some(misfit) = all.rule.problem(property) {
                skip(&format!("property `{target}`: {misfit}"));
                continue;
            }
            let mut named = self.goal.fields.iter().filter(|field| field.property.name == target);
            if let Some(other) = named.find(|field| !may_follow(all.rule, field.rule)) {
                skip(&format!("property `{target}` takes its value from column `{}`", other.column));
                continue;
            }
            let place = match places.get(name.as_str()).map(Vec::as_slice) {
                Some([place]) => *place,
                _ => find_column(file, columns, name)?,
            };
            bulk.columns.push((place, property));
        }
        if let Some(more @ 1..) = skipped.checked_sub(MAX_SKIPPED) {
            bulk.warnings.push(format!("{file}: {} skipped for such reasons", are(more)));
        }
        Ok(bulk)
    }

    fn bulk_field(&self, place: usize, property: &PropertySchema) -> Result<FieldPlan, Error> {
        Ok(FieldPlan {
            column: place,
            property: self.store.property(self.goal.target.owner(), &property.name)?,
            rule: self.goal.all_fields.as_ref().map(|all| all.rule).or_never("the rule of a bulk mapping"),
            separator: None,
            separator_escape: None,
            multiple: property.multiple,
            unique: property.unique,
            format: self.format(property.value_type, None),
        })
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
        let has = |name: &str| match &linked {
            Some(linked) => linked.has(name),
            None => root.iter().any(|column| column == name),
        };
        let owner = Owner::Event(&entry.event_type);
        let named = self.named(entry.file);
        let properties = entry.properties(self.schema);
        let bulk = entry.all_fields.then_some(properties);
        let nested = entry.nested.iter().map(|nested| match nested.path.as_slice() {
            [] => self.nested(entry, nested, &has, &column, None),
            _ => {
                let linked = nested.file.map(|file| self.linked(file)).or_never("the file of nested rows");
                let line = linked.line().filter(|_| entry.gathers());
                self.nested(entry, nested, &|name| linked.has(name), &|name| Ok(linked.place(name)), line)
            }
        });
        Ok(EventPlan {
            event_type: self.store.event_type(&entry.event_type)?,
            path: entry.path.clone(),
            gathers: entry.gathers(),
            line: linked.as_ref().and_then(LinkedColumns::line).filter(|_| entry.gathers()),
            supplements: false,
            import: 0,
            id: entry.id.as_deref().map(column).transpose()?,
            time: column(&entry.time)?,
            time_format: self.format(ValueType::DateTime, entry.time_format.as_ref()),
            fields: self.values(owner, &entry.fields, bulk, &named, &has, &column)?,
            nested: nested.collect::<Result<_, Error>>()?,
            keep_from: entry.keep_from(self.schema, Timestamp::now()),
            product_store: entry.product_store,
        })
    }

    fn nested(
        &self,
        event: &EventEntry,
        entry: &NestedEntry,
        has: &dyn Fn(&str) -> bool,
        column: &dyn Fn(&str) -> Result<usize, Error>,
        line: Option<usize>,
    ) -> Result<NestedPlan, Error> {
        let owner = Owner::Nested(&event.event_type, &entry.name);
        let named = self.named(entry.file);
        let bulk = entry.all_fields.then(|| entry.properties(&event.event_type, self.schema));
        Ok(NestedPlan {
            nested_type: self.store.nested_type(&event.event_type, &entry.name)?,
            path: entry.path.clone(),
            line,
            fields: self.values(owner, &entry.fields, bulk, &named, has, column)?,
        })
    }

    /// The columns that give the properties of an event or a nested row.
    fn values(
        &self,
        owner: Owner<'_>,
        fields: &[ValueEntry],
        bulk: Option<&[PropertySchema]>,
        named: &HashSet<&str>,
        has: &dyn Fn(&str) -> bool,
        column: &dyn Fn(&str) -> Result<usize, Error>,
    ) -> Result<Vec<ValuePlan>, Error> {
        let value = |name: &str,
                     property: &PropertySchema,
                     separator: (Option<&String>, Option<char>),
                     time: Option<&String>| {
            Ok::<_, Error>(ValuePlan {
                column: column(name)?,
                property: self.store.property(owner, &property.name)?,
                separator: separator.0.cloned(),
                separator_escape: separator.1,
                multiple: property.multiple,
                format: self.format(property.value_type, time),
            })
        };
        let mut values = Vec::new();
        for field in fields {
            values.push(value(
                &field.column,
                &field.property,
                (field.separator.as_ref(), field.separator_escape),
                field.format.as_ref(),
            )?);
        }
        for property in bulk.unwrap_or_default() {
            let taken = fields
                .iter()
                .any(|field| field.column == property.name || field.property.name == property.name);
            if has(&property.name) && !taken && !named.contains(property.name.as_str()) {
                values.push(value(&property.name, property, (None, None), None)?);
            }
        }
        values.sort_by_key(|value| value.property);
        Ok(values)
    }

    fn format(&self, value_type: ValueType, time: Option<&String>) -> CellFormat {
        CellFormat {
            value_type,
            number: self.goal.number,
            time: TimeFormat::new(time.map(String::as_str)),
            timezone: self.goal.timezone.clone(),
        }
    }
}

/// The ids of the unique properties, sorted. New ones get an id.
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

/// The ids of the unique properties that the store knows, sorted.
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
