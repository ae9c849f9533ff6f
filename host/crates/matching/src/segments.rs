use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue};
use cel::{Context, Env, ExecutionError, Program, Value as CelValue};
use jiff::Timestamp;
use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use rust_decimal::prelude::ToPrimitive;
use sluicebox_model::{
    CONSENTED, GroupType, Property, PropertyId, READ_ONLY_PROPERTIES, REFUSED, Record, Schema, Value,
    property,
};

/// What an expression may name.
const VARIABLES: [&str; 5] = ["profile", "consents", "events", "groups", "now"];

/// The functions of the standard definition of CEL; operators, whose names are no words, are not among them.
const FUNCTIONS: [&str; 40] = [
    "bool",
    "bytes",
    "contains",
    "double",
    "duration",
    "dyn",
    "endsWith",
    "exists",
    "exists_one",
    "filter",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getFullYear",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getSeconds",
    "has",
    "hasValue",
    "int",
    "map",
    "matches",
    "of",
    "ofNonZeroValue",
    "none",
    "optMap",
    "optFlatMap",
    "optional",
    "or",
    "orValue",
    "size",
    "startsWith",
    "string",
    "timestamp",
    "type",
    "uint",
    "value",
];

/// Expressions over profiles, ready to be asked.
pub struct Segments {
    env: Arc<Env>,
    programs: Vec<(String, Program)>,
    needs: Needs,
}

/// What of a profile the expressions name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The profile's properties, by name.
    pub properties: BTreeSet<String>,
    /// Whether they ask for events.
    pub events: bool,
    /// The types of the groups that they ask for.
    pub groups: BTreeSet<String>,
}

/// How often and when last an event of a type happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventSum {
    /// How many events there are.
    pub count: u64,
    /// When the last of them happened.
    pub last: Timestamp,
}

/// A profile as expressions see it.
pub struct Person<'a> {
    /// The profile.
    pub record: &'a Record,
    /// Its events by the names of their types; a type without events is absent.
    pub events: &'a [(&'a str, EventSum)],
    /// The groups that it belongs to, by the names of their types.
    pub groups: &'a [(&'a str, &'a Record)],
}

/// The numbers of names in a store.
pub struct Names<'a> {
    /// The number of a property of profiles.
    pub profile: &'a (dyn Fn(&str) -> Option<PropertyId> + Sync),
    /// The number of a property of groups of a type.
    pub group: &'a (dyn Fn(&str, &str) -> Option<PropertyId> + Sync),
}

impl Segments {
    /// Compiles expressions, by name. They must be free of problems (see [`segment_problem`]).
    ///
    /// # Errors
    /// With the name of one that does not parse.
    pub fn compile<'s>(expressions: impl IntoIterator<Item = (&'s str, &'s str)>) -> Result<Self, String> {
        let env = Env::stdlib();
        let mut needs = Needs::default();
        let mut programs = Vec::new();
        for (name, expression) in expressions {
            let program = env.compile(expression).map_err(|_| name.to_owned())?;
            Walk { needs: &mut needs, bound: Vec::new(), problem: None, schema: None }
                .expression(program.expression());
            programs.push((name.to_owned(), program));
        }
        Ok(Self { env: Arc::new(env), programs, needs })
    }

    /// What they name.
    pub fn needs(&self) -> &Needs {
        &self.needs
    }

    /// Whether each expression, by its place, holds of a profile; `Err` with the kind of error where it cannot be told.
    /// A value that the profile lacks is no error: nothing that depends on it holds.
    pub fn evaluate(
        &self,
        schema: &Schema,
        names: &Names<'_>,
        person: &Person<'_>,
        now: Timestamp,
    ) -> Vec<Result<bool, &'static str>> {
        let mut context = Context::with_env(Arc::clone(&self.env));
        context.add_variable_from_value("profile", self.profile(names, person.record));
        context.add_variable_from_value("consents", consents(names, person.record));
        context.add_variable_from_value("now", moment(now));
        if self.needs.events {
            context.add_variable_from_value("events", events(person.events));
        }
        if !self.needs.groups.is_empty() {
            context.add_variable_from_value("groups", self.groups(schema, names, person.groups));
        }
        self.programs.iter().map(|(_, program)| truth(program.execute(&context))).collect()
    }

    fn profile(&self, names: &Names<'_>, record: &Record) -> CelValue {
        let mut held: HashMap<&str, CelValue> = HashMap::with_capacity(self.needs.properties.len());
        for name in &self.needs.properties {
            let value = match name.as_str() {
                "created" => Timestamp::from_millisecond(record.created).ok().map(moment),
                "modified" => Timestamp::from_millisecond(record.modified).ok().map(moment),
                name => (names.profile)(name).and_then(|id| record.get(id)).map(|held| of(&held)),
            };
            if let Some(value) = value {
                held.insert(name, value);
            }
        }
        held.into()
    }

    /// For each type a list of the groups, each with its properties.
    fn groups(&self, schema: &Schema, names: &Names<'_>, groups: &[(&str, &Record)]) -> CelValue {
        let mut types: HashMap<&str, CelValue> = HashMap::new();
        for name in &self.needs.groups {
            let Some(group_type) = schema.group(name) else { continue };
            let of_type = groups.iter().filter(|(kind, _)| kind == name);
            let listed: Vec<CelValue> = of_type.map(|(_, record)| group(names, group_type, record)).collect();
            types.insert(name, listed.into());
        }
        types.into()
    }
}

fn group(names: &Names<'_>, group_type: &GroupType, record: &Record) -> CelValue {
    let held = group_type.properties.iter().filter_map(|property| {
        let id = (names.group)(&group_type.name, &property.name)?;
        Some((property.name.as_str(), of(&record.get(id)?)))
    });
    held.collect::<HashMap<_, _>>().into()
}

/// The objectives that the profile consented to and did not refuse.
fn consents(names: &Names<'_>, record: &Record) -> CelValue {
    let values = |name: &str| (names.profile)(name).map(|id| record.values(id)).unwrap_or_default();
    let refused = values(REFUSED);
    let given = values(CONSENTED).into_iter().filter(|objective| !refused.contains(objective));
    given.map(|objective| one(&objective)).collect::<Vec<_>>().into()
}

fn events(sums: &[(&str, EventSum)]) -> CelValue {
    let sums = sums.iter().map(|(name, sum)| {
        let count = CelValue::Int(i64::try_from(sum.count).unwrap_or(i64::MAX));
        (*name, CelValue::from(HashMap::from([("count", count), ("last", moment(sum.last))])))
    });
    sums.collect::<HashMap<_, _>>().into()
}

fn truth(result: Result<CelValue, ExecutionError>) -> Result<bool, &'static str> {
    match result {
        Ok(CelValue::Bool(holds)) => Ok(holds),
        Ok(_) => Err("it gives something that is neither true nor false"),
        Err(ExecutionError::NoSuchKey(_)) => Ok(false),
        // What else these say may quote a person's values.
        Err(ExecutionError::NoSuchOverload(_) | ExecutionError::ValuesNotComparable(..)) => {
            Err("it compares or computes with values of types that do not go together")
        }
        Err(ExecutionError::FunctionError { .. }) => Err("a function of it cannot use the value"),
        Err(_) => Err("it cannot be computed"),
    }
}

fn of(property: &Property) -> CelValue {
    match property {
        Property::One(value) => one(value),
        Property::Many(values) => values.iter().map(one).collect::<Vec<_>>().into(),
    }
}

/// CEL has no exact decimals and no days: a number is a double, a day its first moment in UTC.
fn one(value: &Value) -> CelValue {
    match value {
        Value::Text(text) => text.as_str().into(),
        Value::Number(number) => CelValue::Float(number.to_f64().unwrap_or_default()),
        Value::Boolean(boolean) => CelValue::Bool(*boolean),
        Value::Date(date) => day(*date).map_or(CelValue::Null, moment),
        Value::DateTime(at) => moment(*at),
    }
}

fn day(date: Date) -> Option<Timestamp> {
    TimeZone::UTC.to_timestamp(date.to_datetime(Time::midnight())).ok()
}

fn moment(at: Timestamp) -> CelValue {
    let nanos = u32::try_from(at.subsec_nanosecond()).unwrap_or_default();
    let at = chrono::DateTime::from_timestamp(at.as_second(), nanos);
    at.map_or(CelValue::Null, |at| CelValue::Timestamp(at.fixed_offset()))
}

/// What is wrong with an expression: it does not parse, or names what the schema lacks. `None` = nothing.
pub fn segment_problem(expression: &str, schema: &Schema, nearest: Nearest<'_>) -> Option<String> {
    let program = match Env::stdlib().compile(expression) {
        Ok(program) => program,
        Err(errors) => {
            let first = errors.errors.first();
            let place = first.map(|error| format!(" (character {})", error.pos.1)).unwrap_or_default();
            let message = first.map_or("", |error| error.msg.lines().next().unwrap_or_default());
            return Some(format!("the expression cannot be read: {message}{place}"));
        }
    };
    let mut needs = Needs::default();
    let mut walk =
        Walk { needs: &mut needs, bound: Vec::new(), problem: None, schema: Some((schema, nearest)) };
    walk.expression(program.expression());
    walk.problem
}

/// Finds the known name that is most like a wrong one.
pub type Nearest<'n> = &'n dyn Fn(&str, Vec<&str>) -> Option<String>;

/// Walks through an expression, notes what it needs, and with a schema the first name that is not in it.
struct Walk<'w> {
    needs: &'w mut Needs,
    /// Variables of the macros around.
    bound: Vec<String>,
    problem: Option<String>,
    schema: Option<(&'w Schema, Nearest<'w>)>,
}

impl Walk<'_> {
    fn expression(&mut self, expression: &IdedExpr) {
        match &expression.expr {
            Expr::Ident(name) => self.variable(name),
            Expr::Select(select) => match &select.operand.expr {
                Expr::Ident(name) if !self.bound.contains(name) => self.member(name, &select.field),
                _ => self.expression(&select.operand),
            },
            Expr::Call(call) => {
                if let (["_[_]", ..], [container, index]) = ([call.func_name.as_str()], call.args.as_slice())
                    && let (Expr::Ident(name), Expr::Literal(LiteralValue::String(key))) =
                        (&container.expr, &index.expr)
                    && !self.bound.contains(name)
                {
                    return self.member(name, key.inner());
                }
                self.function(&call.func_name);
                call.target.iter().for_each(|target| self.expression(target));
                call.args.iter().for_each(|argument| self.expression(argument));
            }
            Expr::Comprehension(comprehension) => {
                self.expression(&comprehension.iter_range);
                let before = self.bound.len();
                self.bound.push(comprehension.iter_var.clone());
                self.bound.extend(comprehension.iter_var2.clone());
                self.bound.push(comprehension.accu_var.clone());
                for part in [
                    &comprehension.accu_init,
                    &comprehension.loop_cond,
                    &comprehension.loop_step,
                    &comprehension.result,
                ] {
                    self.expression(part);
                }
                self.bound.truncate(before);
            }
            Expr::List(list) => list.elements.iter().for_each(|element| self.expression(element)),
            Expr::Map(map) => map.entries.iter().for_each(|entry| self.entry(&entry.expr)),
            Expr::Struct(made) => made.entries.iter().for_each(|entry| self.entry(&entry.expr)),
            Expr::Literal(_) | Expr::Unspecified => {}
        }
    }

    fn entry(&mut self, entry: &EntryExpr) {
        match entry {
            EntryExpr::StructField(field) => self.expression(&field.value),
            EntryExpr::MapEntry(entry) => {
                self.expression(&entry.key);
                self.expression(&entry.value);
            }
        }
    }

    /// A variable as a whole.
    fn variable(&mut self, name: &str) {
        match name {
            _ if self.bound.iter().any(|bound| bound == name) => {}
            "events" => self.needs.events = true,
            "profile" | "groups" => {
                self.report(format!(
                    "`{name}` stands for many things; name one of them, as in `{name}.name`"
                ));
            }
            _ if VARIABLES.contains(&name) || FUNCTIONS.contains(&name) => {}
            _ => self.unknown("variable", name, VARIABLES.to_vec()),
        }
    }

    /// Something of a variable, such as a property of the profile.
    fn member(&mut self, variable: &str, name: &str) {
        let Some((schema, _)) = self.schema else {
            match variable {
                "profile" => drop(self.needs.properties.insert(name.to_owned())),
                "groups" => drop(self.needs.groups.insert(name.to_owned())),
                _ => self.variable(variable),
            }
            return;
        };
        let known: Vec<&str> = match variable {
            "profile"
                if property(&schema.properties, name).is_some() || READ_ONLY_PROPERTIES.contains(&name) =>
            {
                return;
            }
            "profile" => schema.properties.iter().map(|property| property.name.as_str()).collect(),
            "events" => schema.events.iter().map(|event| event.name.as_str()).collect(),
            "groups" => schema.groups.iter().map(|group| group.name.as_str()).collect(),
            _ => return self.variable(variable),
        };
        if !known.contains(&name) {
            let kind = match variable {
                "profile" => "property",
                "events" => "event",
                _ => "group",
            };
            self.unknown(kind, name, known);
        }
    }

    fn function(&mut self, name: &str) {
        let word = name.starts_with(|first: char| first.is_ascii_alphabetic());
        if word && !FUNCTIONS.contains(&name) {
            self.unknown("function", name, FUNCTIONS.to_vec());
        }
    }

    fn unknown(&mut self, kind: &str, name: &str, known: Vec<&str>) {
        let Some((_, nearest)) = self.schema else { return };
        let hint = match nearest(name, known) {
            Some(near) => format!("; did you mean `{near}`?"),
            None => String::new(),
        };
        self.report(format!("there is no {kind} `{name}`{hint}"));
    }

    fn report(&mut self, problem: String) {
        if self.problem.is_none() {
            self.problem = Some(problem);
        }
    }
}

#[cfg(test)]
mod tests {
    use sluicebox_model::{EventType, PropertySchema, SpaceId};

    use super::*;

    const PROPERTIES: [&str; 6] = ["country", "age", "tags", "born", CONSENTED, REFUSED];

    fn schema() -> Schema {
        let named = |name: &&str| PropertySchema { name: (*name).to_owned(), ..PropertySchema::default() };
        let household = GroupType { name: "household".to_owned(), properties: vec![named(&"size")] };
        Schema {
            properties: PROPERTIES.iter().map(named).collect(),
            events: vec![EventType { name: "order".to_owned(), ..EventType::default() }],
            groups: vec![household],
            ..Schema::default()
        }
    }

    fn id(name: &str) -> Option<PropertyId> {
        PROPERTIES.iter().position(|known| *known == name).map(|place| PropertyId(place as u32))
    }

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    /// What an expression says of one profile: `true`, `false`, or why it cannot be told.
    fn check(expression: &str, expected: &str) {
        let mut record = Record::new(SpaceId(0), 0);
        let mut set = |name: &str, property: Property| record.set(id(name).unwrap(), &property);
        set("country", Property::One(text("NL")));
        set("age", Property::One(Value::Number(42.into())));
        set("tags", Property::Many(vec![text("a"), text("b")]));
        set("born", Property::One(Value::Date(Date::constant(1984, 5, 6))));
        set(CONSENTED, Property::Many(vec![text("marketing"), text("ads")]));
        set(REFUSED, Property::Many(vec![text("ads")]));
        let mut home = Record::new(SpaceId(1), 0);
        home.set(PropertyId(9), &Property::One(Value::Number(3.into())));
        let last = "2026-01-02T00:00:00Z".parse().unwrap();
        let person = Person {
            record: &record,
            events: &[("order", EventSum { count: 2, last })],
            groups: &[("household", &home)],
        };
        let names = Names { profile: &id, group: &|_, _| Some(PropertyId(9)) };
        let segments = Segments::compile([("it", expression)]).unwrap();
        let now = "2026-01-10T00:00:00Z".parse().unwrap();
        let found = segments.evaluate(&schema(), &names, &person, now);
        let found = match found[0] {
            Ok(holds) => holds.to_string(),
            Err(why) => why.to_owned(),
        };
        assert_eq!(found, expected, "{expression}");
    }

    #[test]
    fn expressions_ask_for_all_that_a_profile_has() {
        for (expression, expected) in [
            ("profile.country == 'NL'", "true"),
            ("profile.country == 'NL' && has(profile.age)", "true"),
            ("profile['country'].startsWith('N')", "true"),
            ("profile.age > 40 && profile.age <= 42.0", "true"),
            ("'b' in profile.tags", "true"),
            ("profile.tags.exists(tag, tag == 'c')", "false"),
            ("profile.born < timestamp('1990-01-01T00:00:00Z')", "true"),
            ("'marketing' in consents", "true"),
            ("'ads' in consents", "false"),
            ("events.order.count >= 2", "true"),
            ("events.order.last > now - duration('240h')", "true"),
            ("has(events.visit)", "false"),
            ("groups.household.exists(home, home.size > 2)", "true"),
            ("profile.created < now", "true"),
            ("profile.age > 'x'", "it compares or computes with values of types that do not go together"),
            ("profile.age + 1.0", "it gives something that is neither true nor false"),
        ] {
            check(expression, expected);
        }
    }

    #[test]
    fn what_a_profile_lacks_holds_for_nothing() {
        let schema = schema();
        let record = Record::new(SpaceId(0), 0);
        let person = Person { record: &record, events: &[], groups: &[] };
        let names = Names { profile: &id, group: &|_, _| None };
        for (expression, expected) in [
            ("profile.country == 'NL'", false),
            ("profile.country != 'NL'", false),
            ("!has(profile.country)", true),
            ("profile.country == 'NL' || !has(profile.age)", true),
            ("events.order.count > 0", false),
            ("groups.household.exists(home, true)", false),
        ] {
            let segments = Segments::compile([("it", expression)]).unwrap();
            let found = segments.evaluate(&schema, &names, &person, Timestamp::UNIX_EPOCH);
            assert_eq!(found, [Ok(expected)], "{expression}");
        }
    }

    #[test]
    fn names_are_held_against_the_schema() {
        let check = |expression: &str, expected: Option<&str>| {
            let nearest = |_: &str, known: Vec<&str>| known.first().map(|first| (*first).to_owned());
            let found = segment_problem(expression, &schema(), &nearest);
            assert_eq!(found.as_deref(), expected, "{expression}");
        };
        check("profile.country == 'NL' && has(profile.age)", None);
        check("profile.tags.all(tag, tag.size() > 1)", None);
        check("profile.land == 'NL'", Some("there is no property `land`; did you mean `country`?"));
        check("profile['land'] == 'NL'", Some("there is no property `land`; did you mean `country`?"));
        check("has(profile.land)", Some("there is no property `land`; did you mean `country`?"));
        check("events.oder.count > 1", Some("there is no event `oder`; did you mean `order`?"));
        check("groups.home.size() > 0", Some("there is no group `home`; did you mean `household`?"));
        check("person.age > 1", Some("there is no variable `person`; did you mean `profile`?"));
        check("lower(profile.country) == 'nl'", Some("there is no function `lower`; did you mean `bool`?"));
        let broken = segment_problem("profile.country ==", &schema(), &|_, _| None).unwrap();
        assert!(broken.starts_with("the expression cannot be read: "), "{broken}");
    }
}
