//! Resolves a goal's mappings against the columns of one file and the store's dictionary.

use std::collections::HashSet;

use sluicebox_matching::{FieldPlan, IdentifierPlan, Plan};
use sluicebox_model::{
    CONSENTED, CellFormat, PropertyId, PropertySchema, REFUSED, Schema, TimeFormat, Value, ValueType,
};
use sluicebox_store::Store;

use crate::config::{Connection, ImportGoal, nearest};
use crate::error::Error;

/// What a goal does with a file of these columns, and what of it is not as the operator may expect.
///
/// # Errors
/// If the file lacks a column, or has one twice that the goal uses.
pub(crate) fn resolve(
    connection: &Connection,
    goal: &ImportGoal,
    schema: &Schema,
    store: &Store,
    file: &str,
    columns: &[String],
) -> Result<(Plan, Vec<String>), Error> {
    let column = |name: &str| {
        place(columns, name).map_err(|message| Error::Columns { name: file.to_owned(), message })
    };
    let format = |value_type: ValueType, format: Option<&String>| CellFormat {
        value_type,
        number: goal.number,
        time: format.map_or(TimeFormat::Standard, |format| TimeFormat::Custom(format.clone())),
        timezone: goal.timezone.clone(),
    };
    let mut identifiers = Vec::new();
    for entry in &goal.identifiers {
        let property = entry.property.as_ref();
        identifiers.push(IdentifierPlan {
            column: column(&entry.column)?,
            property: property.map(|property| store.property("", &property.name)).transpose()?,
            multiple: property.is_some_and(|property| property.multiple),
            format: format(property.map_or(ValueType::Text, |property| property.value_type), None),
        });
    }
    let field =
        |column, property: &PropertySchema, rule, separator: Option<&String>, time: Option<&String>| {
            Ok::<_, Error>(FieldPlan {
                column,
                property: store.property("", &property.name)?,
                rule,
                separator: separator.cloned(),
                multiple: property.multiple,
                unique: property.unique,
                format: format(property.value_type, time),
            })
        };
    let mut fields = Vec::new();
    for entry in &goal.fields {
        let (separator, time) = (entry.separator.as_ref(), entry.format.as_ref());
        fields.push(field(column(&entry.column)?, &entry.property, entry.rule, separator, time)?);
    }
    let mut warnings = Vec::new();
    if let Some(all) = &goal.all_fields {
        let identifiers = goal.identifiers.iter().map(|entry| entry.column.as_str());
        let mut seen: HashSet<&str> =
            goal.fields.iter().map(|entry| entry.column.as_str()).chain(identifiers).collect();
        for (place, name) in columns.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            if !seen.insert(name) {
                continue;
            }
            let target = format!("{}{name}", all.prefix);
            let Some(property) = schema.property(&target) else {
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
            fields.push(field(place, property, all.rule, None, None)?);
        }
    }
    let plan = Plan {
        space: store.domain_group(&goal.domain_group)?,
        identifiers,
        fields,
        create: goal.create,
        on_ambiguous: goal.on_ambiguous,
        objectives: connection.objectives.iter().map(|name| Value::Text(name.as_str().into())).collect(),
        consented: store.property("", CONSENTED)?,
        refused: store.property("", REFUSED)?,
        unique: unique(schema, store)?,
    };
    Ok((plan, warnings))
}

/// The properties whose values identify, sorted.
///
/// # Errors
/// If the store fails.
pub(crate) fn unique(schema: &Schema, store: &Store) -> Result<Vec<PropertyId>, Error> {
    let unique = schema.properties.iter().filter(|property| property.unique);
    let mut ids = unique.map(|property| store.property("", &property.name)).collect::<Result<Vec<_>, _>>()?;
    ids.sort_unstable();
    Ok(ids)
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
