use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue};
use cel::{Context, Env, ExecutionError, Program, Value as CelValue};
use jiff::Timestamp;
use jiff::civil::Time;
use jiff::tz::Offset;
use rust_decimal::prelude::ToPrimitive;
use sluicebox_model::{
    CONSENTED, Expected, GroupType, Moment, OrNever, Property, PropertyId, READ_ONLY_PROPERTIES, REFUSED,
    Record, Schema, Value, property,
};

/// The variables of an expression.
const VARIABLES: [&str; 5] = ["profile", "consents", "events", "groups", "now"];

/// The functions of CEL's standard definition, without operators.
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

/// Compiled expressions over profiles.
pub struct Segments {
    env: Arc<Env>,
    programs: Vec<(String, Program)>,
    needs: Needs,
}

/// The parts of a profile that expressions name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The profile's properties, by name.
    pub properties: BTreeSet<String>,
    /// Whether they name events.
    pub events: bool,
    /// The types of the groups that they name.
    pub groups: BTreeSet<String>,
}

/// The number of a profile's events of one type, and the time of the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventSum {
    /// How many events there are.
    pub count: u64,
    /// The time of the last.
    pub last: Moment,
}

/// A profile with what expressions may name of it.
pub struct Person<'a> {
    /// The profile.
    pub record: &'a Record,
    /// Its events by the names of their types; a type without events is absent.
    pub events: &'a [(&'a str, EventSum)],
    /// Its groups, by the names of their types.
    pub groups: &'a [(&'a str, &'a Record)],
}

/// Finds the ids of properties by name, as the dictionary of a store has them.
pub struct Names<'a> {
    /// The id of a profile property.
    pub profile: &'a (dyn Fn(&str) -> Option<PropertyId> + Sync),
    /// The id of a property of a type of group.
    pub group: &'a (dyn Fn(&str, &str) -> Option<PropertyId> + Sync),
}

impl Segments {
    /// Compiles named expressions. They must have no [`segment_problem`].
    ///
    /// # Errors
    /// With the name of the first expression that does not parse.
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

    /// The parts of a profile that they name.
    pub fn needs(&self) -> &Needs {
        &self.needs
    }

    /// Whether each expression, in the order of [`Segments::compile`], holds for a profile; `Err` with the kind of error where it
    /// cannot be evaluated. A value that the profile lacks is no error: a comparison with it does not hold.
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
        context.add_variable_from_value("now", moment(now.into()));
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
                "created" => Timestamp::from_millisecond(record.created).ok().map(|at| moment(at.into())),
                "modified" => Timestamp::from_millisecond(record.modified).ok().map(|at| moment(at.into())),
                name => (names.profile)(name).and_then(|id| record.get(id)).map(|held| of(&held)),
            };
            if let Some(value) = value {
                held.insert(name, value);
            }
        }
        held.into()
    }

    /// For each type of group, the list of the profile's groups with their properties.
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
        Ok(_) => Err("its result is neither true nor false"),
        Err(ExecutionError::NoSuchKey(_)) => Ok(false),
        // The messages of these errors may quote a person's values.
        Err(ExecutionError::NoSuchOverload(_) | ExecutionError::ValuesNotComparable(..)) => {
            Err("it compares or computes with values of different types")
        }
        Err(ExecutionError::FunctionError { .. }) => {
            Err("it calls a function with a value that the function does not accept")
        }
        Err(_) => Err("it cannot be evaluated"),
    }
}

fn of(property: &Property) -> CelValue {
    match property {
        Property::One(value) => one(value),
        Property::Many(values) => values.iter().map(one).collect::<Vec<_>>().into(),
    }
}

/// A value in CEL, which has no exact decimals and no dates: a number is a double, a date its first moment in UTC.
fn one(value: &Value) -> CelValue {
    match value {
        Value::Text(text) => text.as_str().into(),
        Value::Number(number) => CelValue::Float(number.to_f64().or_never("the double of a decimal")),
        Value::Boolean(boolean) => CelValue::Bool(*boolean),
        Value::Date(date) => moment(Moment::at_offset(date.to_datetime(Time::midnight()), Offset::UTC)),
        Value::DateTime(at) => moment(*at),
    }
}

fn moment(at: Moment) -> CelValue {
    let at = chrono::DateTime::from_timestamp(at.as_second(), at.subsec_nanosecond());
    at.expected("the moment of a value").map_or(CelValue::Null, |at| CelValue::Timestamp(at.fixed_offset()))
}

/// What is wrong with an expression: it does not parse, or it names something that the schema lacks. `None` = nothing.
pub fn segment_problem(expression: &str, schema: &Schema, nearest: Nearest<'_>) -> Option<String> {
    let program = match Env::stdlib().compile(expression) {
        Ok(program) => program,
        Err(errors) => {
            let first = errors.errors.first();
            let place = first.map(|error| format!(" (character {})", error.pos.1)).unwrap_or_default();
            let message = first.map_or("", |error| error.msg.lines().next().unwrap_or_default());
            return Some(format!("the expression does not parse: {message}{place}"));
        }
    };
    let mut needs = Needs::default();
    let mut walk =
        Walk { needs: &mut needs, bound: Vec::new(), problem: None, schema: Some((schema, nearest)) };
    walk.expression(program.expression());
    walk.problem
}

/// Finds the known name that is nearest to a wrong one.
pub type Nearest<'n> = &'n dyn Fn(&str, Vec<&str>) -> Option<String>;

/// Walks through an expression and collects what it needs. With a schema, it reports the first name that the schema lacks.
struct Walk<'w> {
    needs: &'w mut Needs,
    /// The variables of the surrounding macros.
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
            Expr::Struct(fields) => fields.entries.iter().for_each(|entry| self.entry(&entry.expr)),
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

    /// A variable without a member.
    fn variable(&mut self, name: &str) {
        match name {
            _ if self.bound.iter().any(|bound| bound == name) => {}
            "events" => self.needs.events = true,
            "profile" | "groups" => {
                self.report(format!("`{name}` needs a member, as in `{name}.name`"));
            }
            _ if VARIABLES.contains(&name) || FUNCTIONS.contains(&name) => {}
            _ => self.unknown("variable", name, VARIABLES.to_vec()),
        }
    }

    /// A member of a variable, such as a property of the profile.
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
    use jiff::civil::date;
    use sluicebox_model::{EventType, PropertySchema, SpaceId};

    use super::*;

    const PROPERTIES: [&str; 8] = ["country", "age", "tags", "born", CONSENTED, REFUSED, "until", "ends"];

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

    /// The result of an expression over one profile: `true`, `false`, or why it cannot be evaluated.
    fn check(expression: &str, expected: &str) {
        let mut record = Record::new(SpaceId(0), 0);
        let mut set = |name: &str, property: Property| record.set(id(name).unwrap(), &property);
        set("country", Property::One(text("NL")));
        set("age", Property::One(Value::Number(42.into())));
        set("tags", Property::Many(vec![text("a"), text("b")]));
        set("born", Property::One(Value::Date(date(1984, 5, 6))));
        set("until", Property::One(Value::Date(date(9999, 12, 31))));
        let last_moment = date(9999, 12, 31).at(23, 59, 59, 999_999_999);
        set("ends", Property::One(Value::DateTime(Moment::at_offset(last_moment, jiff::tz::offset(-5)))));
        set(CONSENTED, Property::Many(vec![text("marketing"), text("ads")]));
        set(REFUSED, Property::Many(vec![text("ads")]));
        let mut home = Record::new(SpaceId(1), 0);
        home.set(PropertyId(9), &Property::One(Value::Number(3.into())));
        let last = "2026-01-02T00:00:00Z".parse::<Timestamp>().unwrap().into();
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
    fn expressions_read_all_parts_of_a_profile() {
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
            ("profile.until > now", "true"),
            ("profile.until <= now", "false"),
            ("profile.until == timestamp('9999-12-31T00:00:00Z')", "true"),
            ("profile.ends > now", "true"),
            ("profile.ends > profile.until", "true"),
            ("profile.born < profile.until && profile.until < profile.ends", "true"),
            ("profile.until.getFullYear() == 9999", "true"),
            ("profile.age > 'x'", "it compares or computes with values of different types"),
            ("profile.age + 1.0", "its result is neither true nor false"),
        ] {
            check(expression, expected);
        }
    }

    #[test]
    fn comparisons_with_missing_values_do_not_hold() {
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
    fn names_are_checked_against_the_schema() {
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
        assert!(broken.starts_with("the expression does not parse: "), "{broken}");
    }
}
