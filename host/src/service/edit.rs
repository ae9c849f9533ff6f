//! Changes of a connection's file that keep everything else in it, comments and order included.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table, TableLike, Value};
use utoipa::ToSchema;

use crate::config::EXPORT_PROFILES;
use crate::error::Error;

const GOALS: [&str; 3] = ["import_groups", "import_profiles", EXPORT_PROFILES];

/// A schedule as a connection's file writes it. Exactly one of the first five keys says when.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScheduleChange {
    /// A time span, such as `15m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1440)]
    pub times_per_day: Option<usize>,
    /// Days of the week, such as `monday`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<Vec<String>>,
    /// Days of the month: 1 to 31, or `last`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days_of_month: Option<Vec<String>>,
    /// Such as `second tuesday`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weekday_of_month: Option<String>,
    /// Of the day, such as `02:30`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// Such as `Europe/Amsterdam`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
}

/// A mapping of a column.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FieldChange {
    /// Its place among the saved mappings, from 0; absent = it is new. Saved mappings without a place in the change are removed.
    #[serde(default, deserialize_with = "whole")]
    #[schema(value_type = Option<u32>, maximum = 100_000)]
    pub place: Option<usize>,
    pub column: String,
    pub property: String,
    /// `set`, `set-if-empty`, `set-or-clear`, `add` or `sum`.
    pub rule: String,
    #[serde(default)]
    pub separator: Option<String>,
    #[serde(default)]
    pub format: Option<String>,
}

/// A whole number. JSON may write it as 3.0.
fn whole<'de, D: Deserializer<'de>>(given: D) -> Result<Option<usize>, D::Error> {
    let Some(number) = Option::<serde_json::Number>::deserialize(given)? else { return Ok(None) };
    let text = number.to_string();
    let digits = text.split_once('.').map_or(text.as_str(), |(whole, rest)| {
        if rest.bytes().all(|digit| digit == b'0') { whole } else { text.as_str() }
    });
    digits.parse().map(Some).map_err(|_| D::Error::custom("expected a whole number of at least 0"))
}

/// A TOML file that is being changed.
pub(super) struct Edit {
    name: String,
    document: DocumentMut,
}

impl Edit {
    /// Parses a file's text.
    ///
    /// # Errors
    /// If it is not TOML.
    pub(super) fn of(name: &str, text: &str) -> Result<Self, Error> {
        let document = text.parse::<DocumentMut>();
        let document = document
            .map_err(|_| Error::Usage(format!("{name} is not valid TOML: correct it in an editor")))?;
        Ok(Self { name: name.to_owned(), document })
    }

    /// The text with the changes.
    pub(super) fn text(&self) -> String {
        self.document.to_string()
    }

    /// Switches the connection, or one of its goals, on or off.
    ///
    /// # Errors
    /// If there is no such goal.
    pub(super) fn set_enabled(&mut self, goal: Option<&str>, enabled: bool) -> Result<(), Error> {
        let table = match goal {
            None => self.document.as_table_mut(),
            Some(goal) => self.goal(goal)?,
        };
        set(table, "enabled", Value::from(enabled));
        Ok(())
    }

    /// Sets the name that people see.
    pub(super) fn set_name(&mut self, name: &str) {
        set(self.document.as_table_mut(), "name", Value::from(name));
    }

    /// Sets the objectives of the connection.
    pub(super) fn set_objectives(&mut self, objectives: &[String]) {
        let list = Value::Array(objectives.iter().map(String::as_str).collect());
        set(self.document.as_table_mut(), "objectives", list);
    }

    /// Replaces or removes the schedule.
    pub(super) fn set_schedule(&mut self, schedule: Option<&ScheduleChange>) {
        let root = self.document.as_table_mut();
        let Some(schedule) = schedule else {
            root.remove("schedule");
            return;
        };
        let Some(table) = section(root, "schedule") else { return };
        let texts = |texts: &Vec<String>| {
            let value =
                |text: &String| text.parse::<i64>().map_or_else(|_| Value::from(text.as_str()), Value::from);
            Value::Array(texts.iter().map(value).collect::<Array>())
        };
        let entries = [
            ("every", schedule.every.as_deref().map(Value::from)),
            (
                "times_per_day",
                schedule.times_per_day.map(|times| Value::from(i64::try_from(times).unwrap_or(i64::MAX))),
            ),
            ("days", schedule.days.as_ref().map(texts)),
            ("days_of_month", schedule.days_of_month.as_ref().map(texts)),
            ("weekday_of_month", schedule.weekday_of_month.as_deref().map(Value::from)),
            ("time", schedule.time.as_deref().map(Value::from)),
            ("timezone", schedule.timezone.as_deref().map(Value::from)),
        ];
        for (key, value) in entries {
            match value {
                Some(value) => set(table, key, value),
                None => {
                    table.remove(key);
                }
            }
        }
    }

    /// Sets who gets mail, and whether after every run.
    pub(super) fn set_notify(&mut self, email: &[String], every_run: bool) {
        let root = self.document.as_table_mut();
        if email.is_empty() && !root.contains_key("notify") {
            return;
        }
        let Some(table) = section(root, "notify") else { return };
        set(table, "email", Value::Array(email.iter().map(String::as_str).collect()));
        set(table, "on", Value::from(if every_run { "every-run" } else { "failure" }));
    }

    /// Replaces a secret.
    pub(super) fn set_secret(&mut self, table: &str, key: &str, secret: &str) {
        if let Some(table) = section(self.document.as_table_mut(), table) {
            set(table, key, Value::from(secret));
        }
    }

    /// Replaces the mappings of a goal. A mapping that stays keeps the keys that a change does not have.
    ///
    /// # Errors
    /// If there is no such goal, or no mapping at a place.
    pub(super) fn set_fields(&mut self, goal: &str, fields: &[FieldChange]) -> Result<(), Error> {
        let name = self.name.clone();
        let table = self.goal(goal)?;
        let item = table.entry("fields").or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
        let held = match item {
            Item::ArrayOfTables(tables) => tables.len(),
            Item::Value(Value::Array(array)) => array.len(),
            _ => return Err(Error::Usage(format!("{name}: `fields` of {goal} is not a list"))),
        };
        if fields.iter().filter_map(|field| field.place).any(|place| place >= held) {
            return Err(Error::Conflict(format!("{name} was changed meanwhile: load it again")));
        }
        match item {
            Item::ArrayOfTables(tables) => {
                let before: Vec<Table> = tables.iter().cloned().collect();
                tables.clear();
                for field in fields {
                    let old = field.place.and_then(|place| before.get(place).cloned());
                    let mut table = old.unwrap_or_default();
                    field.write(&mut table);
                    tables.push(table);
                }
                if tables.is_empty() {
                    table.remove("fields");
                }
            }
            Item::Value(Value::Array(array)) => {
                let before: Vec<Value> = array.iter().cloned().collect();
                array.clear();
                for field in fields {
                    let old = field.place.and_then(|place| before.get(place).cloned());
                    let mut value = old.unwrap_or_else(|| Value::InlineTable(InlineTable::new()));
                    if let Value::InlineTable(table) = &mut value {
                        field.write(table);
                    }
                    array.push_formatted(value);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Adds text properties to a schema; existing ones stay.
    pub(super) fn add_properties(&mut self, group: Option<&str>, names: &[String]) {
        let root = self.document.as_table_mut();
        let owner: Option<&mut dyn TableLike> = match group {
            None => Some(root),
            Some(group) => implicit(root, "groups").and_then(|groups| implicit(groups, group)),
        };
        let Some(properties) = owner.and_then(|owner| implicit(owner, "properties")) else { return };
        for name in names {
            if !properties.contains_key(name) {
                let item = if is_inline(properties) {
                    Item::Value(Value::InlineTable(InlineTable::new()))
                } else {
                    Item::Table(Table::new())
                };
                properties.insert(name, item);
            }
        }
    }

    fn goal(&mut self, name: &str) -> Result<&mut dyn TableLike, Error> {
        let missing = Error::Unknown { kind: "goal", name: name.to_owned(), known: Vec::new() };
        let root = self.document.as_table_mut();
        let has_name = |table: &dyn TableLike| table.get("name").and_then(Item::as_str) == Some(name);
        let kind = GOALS.into_iter().find(|kind| match root.get(kind) {
            Some(Item::ArrayOfTables(tables)) => tables.iter().any(|table| has_name(table)),
            Some(Item::Value(Value::Array(array))) => {
                array.iter().filter_map(Value::as_inline_table).any(|table| has_name(table))
            }
            _ => false,
        });
        let goals = kind.and_then(|kind| root.get_mut(kind));
        let found: Option<&mut dyn TableLike> = match goals {
            Some(Item::ArrayOfTables(tables)) => {
                tables.iter_mut().find(|table| has_name(*table)).map(|table| table as &mut dyn TableLike)
            }
            Some(Item::Value(Value::Array(array))) => array
                .iter_mut()
                .filter_map(Value::as_inline_table_mut)
                .find(|table| has_name(*table))
                .map(|table| table as &mut dyn TableLike),
            _ => None,
        };
        found.ok_or(missing)
    }
}

impl FieldChange {
    fn write(&self, table: &mut dyn TableLike) {
        set(table, "column", Value::from(self.column.as_str()));
        // A default is not written where it was not.
        if self.property != self.column || table.contains_key("property") {
            set(table, "property", Value::from(self.property.as_str()));
        }
        if self.rule != "set" || table.contains_key("rule") {
            set(table, "rule", Value::from(self.rule.as_str()));
        }
        for (key, text) in [("separator", &self.separator), ("format", &self.format)] {
            match text.as_deref().filter(|text| !text.is_empty()) {
                Some(text) => set(table, key, Value::from(text)),
                None => {
                    table.remove(key);
                }
            }
        }
    }
}

/// Sets the value of a key; comments and spaces around it stay.
fn set(table: &mut dyn TableLike, key: &str, value: Value) {
    match table.get_mut(key).and_then(Item::as_value_mut) {
        // An equal value keeps its spelling.
        Some(old) if same(old, &value) => {}
        Some(old) => {
            let decor = old.decor().clone();
            *old = value;
            *old.decor_mut() = decor;
        }
        None => {
            table.insert(key, Item::Value(value));
        }
    }
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::String(a), Value::String(b)) => a.value() == b.value(),
        (Value::Integer(a), Value::Integer(b)) => a.value() == b.value(),
        (Value::Boolean(a), Value::Boolean(b)) => a.value() == b.value(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| same(a, b))
        }
        _ => false,
    }
}

/// The table under a key; added if there is none.
fn section<'t>(root: &'t mut Table, key: &str) -> Option<&'t mut dyn TableLike> {
    let item = root.entry(key).or_insert_with(|| Item::Table(Table::new()));
    if !item.is_table_like() {
        *item = Item::Table(Table::new());
    }
    item.as_table_like_mut()
}

/// The same; an added table has no heading of its own.
fn implicit<'t>(owner: &'t mut dyn TableLike, key: &str) -> Option<&'t mut dyn TableLike> {
    if !owner.get(key).is_some_and(Item::is_table_like) {
        let mut table = Table::new();
        table.set_implicit(true);
        owner.insert(key, Item::Table(table));
    }
    owner.get_mut(key).and_then(Item::as_table_like_mut)
}

fn is_inline(table: &dyn TableLike) -> bool {
    table.is_dotted() || table.iter().next().is_some_and(|(_, item)| item.is_value())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, change: impl Fn(&mut Edit), expected: &str) {
        let mut edit = Edit::of("a.toml", text).unwrap();
        change(&mut edit);
        assert_eq!(edit.text(), expected);
    }

    const CONNECTION: &str = "# ours\nname = \"Loyalty\" # as people say\n\n[location]\nkind = \"directory\"\n\n\
        [[import_profiles]]\nname = \"customers\"\nfiles = \"*.csv\"\n\n# who it is\n[[import_profiles.fields]]\n\
        column = \"first\" # as they call it\nproperty = \"first_name\"\n\n[[import_profiles.fields]]\ncolumn = \"city\"\n";

    #[test]
    fn comments_and_order_stay() {
        check(
            CONNECTION,
            |edit| {
                edit.set_enabled(None, false).unwrap();
                edit.set_enabled(Some("customers"), false).unwrap();
            },
            &CONNECTION
                .replace("say\n", "say\nenabled = false\n")
                .replace("\"*.csv\"\n", "\"*.csv\"\nenabled = false\n"),
        );
        let field = |place, column: &str, property: &str, rule: &str| FieldChange {
            place,
            column: column.to_owned(),
            property: property.to_owned(),
            rule: rule.to_owned(),
            ..FieldChange::default()
        };
        check(
            CONNECTION,
            |edit| {
                let fields = [
                    field(Some(0), "given", "first_name", "set"),
                    field(Some(1), "city", "city", "set-if-empty"),
                    field(None, "zip", "zip", "set"),
                ];
                edit.set_fields("customers", &fields).unwrap();
            },
            &(CONNECTION.replace("column = \"first\"", "column = \"given\"")
                + "rule = \"set-if-empty\"\n\n[[import_profiles.fields]]\ncolumn = \"zip\"\n"),
        );
        check(
            CONNECTION,
            |edit| edit.set_fields("customers", &[field(Some(0), "first", "first_name", "set")]).unwrap(),
            CONNECTION.split("\n[[import_profiles.fields]]\ncolumn = \"city\"").next().unwrap(),
        );
    }

    #[test]
    fn fields_in_one_line_stay_in_one_line() {
        let text = "[[import_profiles]]\nname = 'a'\nfields = [ { column = 'x' }, { column = 'y', rule = 'add' } ]\n";
        let fields = [FieldChange {
            place: Some(1),
            column: "y".to_owned(),
            property: "z".to_owned(),
            rule: "set".to_owned(),
            ..FieldChange::default()
        }];
        check(
            text,
            |edit| edit.set_fields("a", &fields).unwrap(),
            "[[import_profiles]]\nname = 'a'\nfields = [ { column = 'y', rule = \"set\" , property = \"z\" } ]\n",
        );
    }

    #[test]
    fn a_schedule_is_added_replaced_and_removed() {
        let nightly = ScheduleChange {
            times_per_day: Some(1),
            time: Some("02:30".to_owned()),
            timezone: Some("Europe/Amsterdam".to_owned()),
            ..ScheduleChange::default()
        };
        let with = "name = 'a'\n\n[schedule]\ntimes_per_day = 1\ntime = \"02:30\"\ntimezone = \"Europe/Amsterdam\"\n";
        check("name = 'a'\n", |edit| edit.set_schedule(Some(&nightly)), with);
        check(with, |edit| edit.set_schedule(None), "name = 'a'\n");
        let monthly = ScheduleChange {
            days_of_month: Some(vec!["1".to_owned(), "last".to_owned()]),
            ..nightly.clone()
        };
        let monthly = ScheduleChange { times_per_day: None, ..monthly };
        check(
            with,
            |edit| edit.set_schedule(Some(&monthly)),
            "name = 'a'\n\n[schedule]\ntime = \"02:30\"\ntimezone = \"Europe/Amsterdam\"\ndays_of_month = [1, \"last\"]\n",
        );
    }

    #[test]
    fn properties_are_added_to_a_schema() {
        let schema = "# our customers\n[properties.email]\nunique = true\n";
        let names = ["email".to_owned(), "zip code".to_owned()];
        check(
            schema,
            |edit| edit.add_properties(None, &names),
            "# our customers\n[properties.email]\nunique = true\n\n[properties.\"zip code\"]\n",
        );
    }
}
