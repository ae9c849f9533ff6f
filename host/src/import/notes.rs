//! What the store notes of imports beside the ledger: under which configuration of the goal a file set was imported, and with
//! which builds of the plugins.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value as Json;
use sluicebox_model::OrNever;
use sluicebox_store::{Store, StoreError};

use crate::config::{Connection, ImportGoal};
use crate::error::Error;
use crate::plugins::{Build, Processor};
use crate::runs::fingerprint::Fingerprint;

/// A key of the store and the note under it.
pub(crate) type KeyedNote = ([u8; 32], Vec<u8>);

/// A hash; hexadecimal digits in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hash(pub [u8; 32]);

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&blake3::Hash::from(self.0).to_hex())
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(given: D) -> Result<Self, D::Error> {
        let text = String::deserialize(given)?;
        blake3::Hash::from_hex(text).map(|hash| Self(hash.into())).map_err(D::Error::custom)
    }
}

/// A plugin that took part in an import.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UsedPlugin {
    /// Its name or path in the goal.
    pub name: String,
    /// The digest of its component; `None` where an earlier version did not note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<Hash>,
}

impl From<&Build> for UsedPlugin {
    fn from(build: &Build) -> Self {
        Self { name: build.name.clone(), build: Some(Hash(build.digest)) }
    }
}

/// Hashes of the properties that a bulk mapping writes of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BulkHashes {
    /// Those of the file's columns.
    pub own: Hash,
    /// Those of columns that processors add.
    pub added: Hash,
}

/// An import of a file set, begun or complete: the ledger knows how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NotedImport {
    /// Its key in the ledger.
    pub ledger: Hash,
    /// The goal's configuration, without the builds of plugins.
    pub configuration: Hash,
    #[serde(default)]
    pub bulk: BulkHashes,
    /// In the order of the goal. Of an import that another build continued, the last builds.
    pub plugins: Vec<UsedPlugin>,
    /// Whether it counts as complete, whatever the ledger knows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accepted: bool,
    /// Whether `--reimport` wants it: the set is imported again although it was imported before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub due: bool,
}

/// The configuration with which a goal runs now, as far as it determines the result for a file.
pub(crate) struct Present<'a> {
    pub configuration: Hash,
    pub bulk: BulkHashes,
    pub builds: Vec<&'a Build>,
}

impl NotedImport {
    /// An import that has not begun.
    pub(crate) fn new(ledger: Hash, present: &Present<'_>) -> Self {
        Self {
            ledger,
            configuration: present.configuration,
            bulk: present.bulk,
            plugins: used(present.builds.iter().copied()),
            accepted: false,
            due: false,
        }
    }

    /// Whether the present configuration is that of the import; then the plugins of which it had another build.
    pub(crate) fn changed_plugins(&self, present: &Present<'_>) -> Option<Vec<String>> {
        if self.configuration != present.configuration {
            return None;
        }
        let changed = changed_plugins(&self.plugins, &present.builds).ok()?;
        // Another build may add other columns.
        let is_certain = changed.is_empty() && self.plugins.iter().all(|plugin| plugin.build.is_some());
        let same_bulk =
            self.bulk.own == present.bulk.own && !(is_certain && self.bulk.added != present.bulk.added);
        same_bulk.then_some(changed)
    }
}

/// The plugins with these builds, in their order.
pub(crate) fn used<'b>(builds: impl Iterator<Item = &'b Build>) -> Vec<UsedPlugin> {
    builds.map(UsedPlugin::from).collect()
}

/// The plugins of which there is another build now.
///
/// # Errors
/// With the words for it, if a plugin is another one, or is pinned to another build.
fn changed_plugins(then: &[UsedPlugin], now: &[&Build]) -> Result<Vec<String>, String> {
    if then.len() != now.len() {
        return Err("processors added or removed".to_owned());
    }
    let mut changed = Vec::new();
    for (then, now) in then.iter().zip(now) {
        let is_same = match then.build {
            Some(build) => build.0 == now.digest,
            None => then.name == now.name,
        };
        if is_same {
            continue;
        }
        if then.name != now.name {
            return Err(format!("plugin {} instead of {}", now.name, then.name));
        }
        if now.pinned {
            return Err(format!("plugin {} is pinned to another build", now.name));
        }
        changed.push(now.name.clone());
    }
    Ok(changed)
}

/// The imports of a file set, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SetNote {
    pub imports: Vec<NotedImport>,
}

/// What a goal was when it ran last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GoalNote {
    pub configuration: Hash,
    pub plugins: Vec<UsedPlugin>,
}

/// A configuration of a goal, so that a later one can be compared with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ConfigurationNote {
    settings: Json,
    objectives: Vec<String>,
    processors: Vec<NotedProcessor>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct NotedProcessor {
    plugin: String,
    file: Option<usize>,
    /// A hash: a configuration may have secrets.
    config: Hash,
}

/// Reads the note under a key. One that a later version wrote in another form is as none.
///
/// # Errors
/// If the store fails.
pub(crate) fn read<T: for<'de> Deserialize<'de>>(
    store: &Store,
    key: &[u8; 32],
) -> Result<Option<T>, StoreError> {
    Ok(store.import_note(key)?.and_then(|note| serde_json::from_slice(&note).ok()))
}

/// A note as the store holds it.
pub(crate) fn encode(note: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(note).or_never("the JSON of a note")
}

/// The key of the note of a goal.
pub(crate) fn goal_key(connection: &Connection, goal: &ImportGoal) -> [u8; 32] {
    Fingerprint::of(["goal", &connection.stem, &goal.name])
}

/// The key of the note of a configuration.
pub(crate) fn configuration_key(connection: &Connection, goal: &ImportGoal, configuration: Hash) -> [u8; 32] {
    let parts: [&[u8]; 4] =
        [b"configuration", connection.stem.as_bytes(), goal.name.as_bytes(), &configuration.0];
    Fingerprint::of(parts)
}

/// The configuration of a goal, without the builds of its plugins and their names. `configs` are the configurations of its
/// processors, with their secrets.
pub(crate) fn configuration<'c>(
    connection: &Connection,
    goal: &ImportGoal,
    configs: impl Iterator<Item = (Option<usize>, &'c str)>,
) -> Hash {
    let mut fingerprint = Fingerprint::new();
    fingerprint.add(goal.settings.to_string().as_bytes());
    fingerprint.add(&(connection.objectives.len() as u64).to_le_bytes());
    connection.objectives.iter().for_each(|objective| fingerprint.add(objective.as_bytes()));
    for (file, config) in configs {
        fingerprint.add(&file.map_or(0, |file| file as u64 + 1).to_le_bytes());
        fingerprint.add(config.as_bytes());
    }
    Hash(fingerprint.finish())
}

impl ConfigurationNote {
    /// The present configuration.
    pub(crate) fn of(connection: &Connection, goal: &ImportGoal, processors: &[Processor]) -> Self {
        let noted = |processor: &Processor| NotedProcessor {
            plugin: processor.build.name.clone(),
            file: processor.file,
            config: Hash(Fingerprint::of([connection.stem.as_str(), &goal.name, processor.config.json()])),
        };
        Self {
            settings: goal.settings.clone(),
            objectives: connection.objectives.clone(),
            processors: processors.iter().map(noted).collect(),
        }
    }

    /// What is different in a later configuration, in words.
    fn changes_to(&self, now: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        changes_of("", &self.settings, &now.settings, &mut changes);
        if self.objectives != now.objectives {
            changes.push("objectives changed".to_owned());
        }
        if self.processors.len() == now.processors.len() {
            for (then, now) in self.processors.iter().zip(&now.processors) {
                if then.config != now.config || then.file != now.file {
                    changes.push(format!("configuration of {} changed", now.plugin));
                }
            }
        }
        changes
    }
}

/// The differences of two settings. Entries of lists are named by their first element: the column.
fn changes_of(path: &str, then: &Json, now: &Json, changes: &mut Vec<String>) {
    match (then, now) {
        (Json::Object(then), Json::Object(now)) => {
            let keys = then.keys().chain(now.keys().filter(|key| !then.contains_key(*key)));
            for key in keys {
                let dot = if path.is_empty() { "" } else { "." };
                let of =
                    |settings: &serde_json::Map<String, Json>| settings.get(key).cloned().unwrap_or_default();
                changes_of(&format!("{path}{dot}{key}"), &of(then), &of(now), changes);
            }
        }
        (Json::Array(then), Json::Array(now)) if ["fields", "identifiers"].contains(&path) => {
            let column = |entry: &Json| entry.get(0).and_then(Json::as_str).unwrap_or_default().to_owned();
            let without = |entries: &[Json], others: &[Json]| {
                let left = entries.iter().filter(|entry| !others.contains(entry));
                left.map(column).collect::<Vec<String>>()
            };
            let (removed, added) = (without(then, now), without(now, then));
            let before = changes.len();
            let mut say = |columns: Vec<String>, what: &str| {
                if !columns.is_empty() {
                    changes.push(format!("{path} {what}: {}", columns.join(", ")));
                }
            };
            let (changed, added): (Vec<_>, Vec<_>) =
                added.into_iter().partition(|name| removed.contains(name));
            let removed = removed.into_iter().filter(|name| !changed.contains(name)).collect();
            say(added, "added");
            say(removed, "removed");
            say(changed, "changed");
            if then != now && changes.len() == before {
                changes.push(format!("order of {path} changed"));
            }
        }
        (then, now) if then != now => changes.push(format!("{path} changed")),
        _ => {}
    }
}

impl NotedImport {
    /// What is different in the present configuration of a goal, in words.
    ///
    /// # Errors
    /// If the store fails.
    pub(crate) fn changes(
        &self,
        store: &Store,
        (connection, goal, processors): (&Connection, &ImportGoal, &[Processor]),
        present: &Present<'_>,
    ) -> Result<Vec<String>, Error> {
        let mut changes = Vec::new();
        if self.configuration != present.configuration {
            let key = configuration_key(connection, goal, self.configuration);
            let now = ConfigurationNote::of(connection, goal, processors);
            if let Some(then) = read::<ConfigurationNote>(store, &key)? {
                changes.extend(then.changes_to(&now));
            }
        }
        if let Err(words) = changed_plugins(&self.plugins, &present.builds) {
            changes.push(words);
        }
        if self.bulk.own != present.bulk.own || (changes.is_empty() && self.bulk.added != present.bulk.added)
        {
            changes.push("properties of all_fields changed".to_owned());
        }
        if changes.is_empty() {
            changes.push("configuration changed".to_owned());
        }
        Ok(changes)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn build(name: &str, digest: u8, pinned: bool) -> Build {
        Build::test(name, [digest; 32], pinned)
    }

    fn check(then: &[(&str, Option<u8>)], now: &[Build], expected: Result<&[&str], &str>) {
        let then = then.iter().map(|(name, build)| UsedPlugin {
            name: (*name).to_owned(),
            build: build.map(|digest| Hash([digest; 32])),
        });
        let found = changed_plugins(&then.collect::<Vec<_>>(), &now.iter().collect::<Vec<_>>());
        let expected = expected.map(|names| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(found, expected.map_err(str::to_owned));
    }

    #[test]
    fn another_build_is_no_change_unless_it_is_pinned() {
        check(&[], &[], Ok(&[]));
        check(&[("a", Some(1))], &[build("a", 1, false)], Ok(&[]));
        check(&[("a", Some(1))], &[build("a", 1, true)], Ok(&[]));
        check(&[("a", Some(1))], &[build("a", 2, false)], Ok(&["a"]));
        check(&[("a", Some(1))], &[build("a", 2, true)], Err("plugin a is pinned to another build"));
        // The same component under another name is the same plugin; another component is not.
        check(&[("a", Some(1))], &[build("b", 1, false)], Ok(&[]));
        check(&[("a", Some(1))], &[build("b", 2, false)], Err("plugin b instead of a"));
        // Earlier versions noted no builds.
        check(&[("a", None)], &[build("a", 2, true)], Ok(&[]));
        check(&[("a", None)], &[build("b", 2, false)], Err("plugin b instead of a"));
        check(&[("a", Some(1))], &[], Err("processors added or removed"));
        check(
            &[("a", Some(1)), ("b", Some(1))],
            &[build("a", 2, false), build("b", 3, false)],
            Ok(&["a", "b"]),
        );
    }

    #[test]
    fn changes_of_settings_in_words() {
        let then = json!({ "create": true, "csv": { "trim": true, "quote": 34 },
            "fields": [["a", "set"], ["b", "sum"], ["c", "set"]], "events": [1] });
        let check = |now: Json, expected: &[&str]| {
            let mut changes = Vec::new();
            changes_of("", &then, &now, &mut changes);
            assert_eq!(changes, expected, "{now}");
        };
        let with = |key: &str, value: Json| {
            let mut now = then.clone();
            if let Some(slot) = now.pointer_mut(key) {
                *slot = value;
            }
            now
        };
        check(then.clone(), &[]);
        check(with("/create", json!(false)), &["create changed"]);
        check(with("/csv/quote", json!(null)), &["csv.quote changed"]);
        check(with("/events", json!([2])), &["events changed"]);
        check(with("/fields", json!([["a", "set"], ["b", "sum"]])), &["fields removed: c"]);
        check(
            with("/fields", json!([["d", "sum"], ["a", "set"], ["b", "set"], ["c", "set"]])),
            &["fields added: d", "fields changed: b"],
        );
        check(
            with("/fields", json!([["b", "sum"], ["a", "set"], ["c", "set"]])),
            &["order of fields changed"],
        );
        check(json!({ "create": true }), &["csv changed", "fields changed", "events changed"]);
    }

    #[test]
    fn notes_come_back() {
        let import = NotedImport {
            ledger: Hash([7; 32]),
            configuration: Hash([8; 32]),
            bulk: BulkHashes::default(),
            plugins: vec![UsedPlugin { name: "a".to_owned(), build: None }],
            accepted: true,
            due: false,
        };
        let note = SetNote { imports: vec![import] };
        assert_eq!(serde_json::from_slice::<SetNote>(&encode(&note)).unwrap(), note);
    }
}
