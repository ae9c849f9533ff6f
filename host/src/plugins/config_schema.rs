//! Checks a processor's configuration against the JSON Schema of its plugin.

use jsonschema::PatternOptions;
use jsonschema::error::ValidationErrorKind;
use serde_json::Value;

use crate::config::nearest;

/// Parts of a schema with its references followed. The library takes memory for each of them.
const MAX_PARTS: usize = 20_000;
/// How deep parts may lie in each other, with references followed.
const MAX_DEPTH: usize = 200;
/// Bytes of a compiled regular expression.
const MAX_PATTERN: usize = 256 << 10;
/// The parts that a regular expression counts for.
const PARTS_OF_A_PATTERN: usize = 100;
/// Characters of a number, and its largest exponent: the library computes with all digits.
const MAX_NUMBER: usize = 100;

/// Checks a configuration against a plugin's JSON Schema. The answer names each wrong value by its path and quotes none: it may
/// be a secret.
pub(super) fn check(config: &str, schema: &str) -> Result<(), String> {
    let schema: Value = serde_json::from_str(schema)
        .map_err(|error| format!("the JSON Schema of its configuration is not JSON: {error}"))?;
    let wrong = |what: String| format!("the JSON Schema of its configuration {what}");
    Bounds::new(&schema).check().map_err(wrong)?;
    let patterns = PatternOptions::fancy_regex().size_limit(MAX_PATTERN).dfa_size_limit(MAX_PATTERN);
    let validator = jsonschema::options()
        .with_pattern_options(patterns)
        .build(&schema)
        .map_err(|error| wrong(format!("is not a JSON Schema: {}", error.masked())))?;
    let config: Value = serde_json::from_str(config).map_err(|error| format!("configuration: {error}"))?;
    let wrong = validator.iter_errors(&config).take(5).map(|error| {
        let path: String = error.instance_path().to_string().replace('/', ".");
        format!("config{path}: {}", problem(&error, &schema))
    });
    let wrong: Vec<String> = wrong.collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

/// Counts the parts of a schema after every reference is followed. A few kilobytes whose references double at
/// each step would take the library gigabytes.
struct Bounds<'s> {
    schema: &'s Value,
    parts: usize,
    /// The targets of the references that are being followed: a reference back to one of them is not followed again.
    open: Vec<*const Value>,
}

impl<'s> Bounds<'s> {
    fn new(schema: &'s Value) -> Self {
        Self { schema, parts: 0, open: vec![std::ptr::from_ref(schema)] }
    }

    fn check(mut self) -> Result<(), String> {
        self.visit(self.schema, 0)
    }

    fn add(&mut self, parts: usize) -> Result<(), String> {
        self.parts += parts;
        if self.parts > MAX_PARTS {
            return Err(format!("has more than {MAX_PARTS} parts once its references are followed"));
        }
        Ok(())
    }

    fn visit(&mut self, part: &'s Value, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("is nested more than {MAX_DEPTH} deep once its references are followed"));
        }
        self.add(1)?;
        match part {
            Value::Object(keys) => {
                for (key, value) in keys {
                    match (key.as_str(), value) {
                        ("$ref" | "$recursiveRef", Value::String(to)) => self.follow(to, depth)?,
                        ("$anchor" | "$dynamicAnchor" | "$dynamicRef", Value::String(_)) => {
                            return Err(format!("uses `{key}`; refer to parts by `#/…`"));
                        }
                        ("$id", Value::String(_)) if depth > 0 => {
                            return Err("has an `$id` below its root; refer to parts by `#/…`".to_owned());
                        }
                        ("pattern", Value::String(_)) => self.add(PARTS_OF_A_PATTERN)?,
                        ("patternProperties", Value::Object(patterns)) => {
                            self.add(PARTS_OF_A_PATTERN.saturating_mul(patterns.len()))?;
                            self.visit(value, depth + 1)?;
                        }
                        _ => self.visit(value, depth + 1)?,
                    }
                }
                Ok(())
            }
            Value::Array(parts) => parts.iter().try_for_each(|part| self.visit(part, depth + 1)),
            Value::Number(number) => check_number(&number.to_string()),
            _ => Ok(()),
        }
    }

    fn follow(&mut self, to: &str, depth: usize) -> Result<(), String> {
        let pointer = to.strip_prefix('#').filter(|pointer| !pointer.contains('%'));
        let target = pointer.and_then(|pointer| self.schema.pointer(pointer));
        let target = target.ok_or("has a `$ref` that is not a `#/…` of its own".to_owned())?;
        let place = std::ptr::from_ref(target);
        if self.open.contains(&place) {
            return Ok(());
        }
        self.open.push(place);
        self.visit(target, depth + 1)?;
        self.open.pop();
        Ok(())
    }
}

fn check_number(number: &str) -> Result<(), String> {
    let exponent = number.split_once(['e', 'E']).map_or("0", |(_, exponent)| exponent);
    let is_small = exponent.parse::<i64>().is_ok_and(|exponent| exponent.unsigned_abs() <= MAX_NUMBER as u64);
    if number.len() <= MAX_NUMBER && is_small {
        Ok(())
    } else {
        Err("has a number with too many digits".to_owned())
    }
}

/// What is wrong with a value, without the value. Keys are not secret: the nearest one helps.
fn problem(error: &jsonschema::ValidationError<'_>, schema: &Value) -> String {
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            let known = known_keys(error, schema);
            let near = |key: &String| match nearest(key, known.iter().copied()) {
                Some(near) => format!("unknown key `{key}`; did you mean `{near}`?"),
                None => format!("unknown key `{key}`; there are: {}", known.join(", ")),
            };
            unexpected.iter().map(near).collect::<Vec<_>>().join("; ")
        }
        ValidationErrorKind::OneOfNotValid { .. } | ValidationErrorKind::AnyOf { .. } => {
            match choices(error, schema) {
                choices if choices.is_empty() => "none of the forms that the plugin accepts".to_owned(),
                choices => format!("expected one of {}", choices.join(", ")),
            }
        }
        ValidationErrorKind::Required { property } => {
            format!("`{}` is missing", property.as_str().unwrap_or_default())
        }
        _ => error.masked().to_string(),
    }
}

/// The part of the schema that a value does not match.
fn rule<'s>(error: &jsonschema::ValidationError<'_>, schema: &'s Value) -> Option<&'s Value> {
    schema.pointer(error.schema_path().as_str())
}

/// The keys of the table in which an unknown key was found.
fn known_keys<'s>(error: &jsonschema::ValidationError<'_>, schema: &'s Value) -> Vec<&'s str> {
    let path = error.schema_path().as_str();
    let table = path.rsplit_once('/').and_then(|(table, _)| schema.pointer(table));
    let properties = table.and_then(|table| table.get("properties")).and_then(Value::as_object);
    properties.into_iter().flat_map(|properties| properties.keys().map(String::as_str)).collect()
}

/// The values that the plugin accepts, where its schema lists them.
fn choices<'s>(error: &jsonschema::ValidationError<'_>, schema: &'s Value) -> Vec<&'s str> {
    let forms = rule(error, schema).and_then(Value::as_array);
    let named = |form: &'s Value| {
        let one = form.get("const").into_iter();
        let several = form.get("enum").and_then(Value::as_array).into_iter().flatten();
        one.chain(several).filter_map(Value::as_str)
    };
    forms.into_iter().flatten().flat_map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Definitions that each refer twice to the next.
    fn doubled(steps: usize) -> String {
        let next = |step: usize| format!(r##"{{"$ref": "#/$defs/{}"}}"##, step + 1);
        let definitions: Vec<String> =
            (0..steps).map(|step| format!(r#""{step}": {{"allOf": [{0}, {0}]}}"#, next(step))).collect();
        format!(r##"{{"$ref": "#/$defs/0", "$defs": {{{}, "{steps}": {{}}}}}}"##, definitions.join(", "))
    }

    fn check_refused(schema: &str, expected: &str) {
        let found = check("{}", schema).unwrap_err();
        assert_eq!(found, format!("the JSON Schema of its configuration {expected}"));
    }

    #[test]
    fn references_that_double_are_bounded() {
        assert_eq!(check("{}", &doubled(5)), Ok(()));
        let schema = doubled(50);
        assert!(schema.len() < 4000);
        check_refused(&schema, "has more than 20000 parts once its references are followed");
    }

    #[test]
    fn every_definition_that_refers_to_all_others_is_bounded() {
        let all: Vec<String> = (0..30).map(|to| format!(r##"{{"$ref": "#/$defs/{to}"}}"##)).collect();
        let definitions: Vec<String> =
            (0..30).map(|from| format!(r#""{from}": {{"anyOf": [{}]}}"#, all.join(", "))).collect();
        let schema = format!(r##"{{"$ref": "#/$defs/0", "$defs": {{{}}}}}"##, definitions.join(", "));
        check_refused(&schema, "has more than 20000 parts once its references are followed");
    }

    #[test]
    fn a_schema_may_refer_to_itself() {
        let schema = r##"{"$id": "https://example.com/tree", "type": "object", "additionalProperties": false,
            "properties": {"not": {"$ref": "#"}, "$ref": {"type": "string"}}}"##;
        assert_eq!(check(r#"{"not": {"not": {}}}"#, schema), Ok(()));
        let wrong = check(r#"{"not": {"nott": {}}}"#, schema).unwrap_err();
        assert_eq!(wrong, "config.not: unknown key `nott`; did you mean `not`?");
    }

    #[test]
    fn a_schema_that_is_defined_by_itself_ends() {
        let schema = r##"{"allOf": [{"$ref": "#"}, {"$ref": "#"}], "properties": {"a": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}}}"##;
        assert_eq!(check(r#"{"a": {"a": {"a": {}}}}"#, schema), Ok(()));
        let schema = r##"{"$ref": "#/$defs/a", "$defs": {"a": {"not": {"$ref": "#/$defs/b"}}, "b": {"oneOf": [{"$ref": "#/$defs/a"}]}}}"##;
        // Either answer will do.
        let _ = check("{}", schema);
    }

    #[test]
    fn other_ways_to_grow_are_refused() {
        check_refused(
            r##"{"$ref": "#a", "$defs": {"b": {}}}"##,
            "has a `$ref` that is not a `#/…` of its own",
        );
        check_refused(r#"{"$ref": "https://example.com"}"#, "has a `$ref` that is not a `#/…` of its own");
        check_refused(r#"{"items": {"$anchor": "a"}}"#, "uses `$anchor`; refer to parts by `#/…`");
        check_refused(
            r#"{"items": {"$id": "https://example.com"}}"#,
            "has an `$id` below its root; refer to parts by `#/…`",
        );
        check_refused(r#"{"multipleOf": 1e-100000000}"#, "has a number with too many digits");
        let patterns: Vec<String> = (0..300).map(|n| format!(r#""a{n}": true"#)).collect();
        check_refused(
            &format!(r#"{{"patternProperties": {{{}}}}}"#, patterns.join(", ")),
            "has more than 20000 parts once its references are followed",
        );
        let nested = format!("{}true{}", r#"{"not": "#.repeat(100), "}".repeat(100));
        assert_eq!(check("{}", &nested.replace("true", "{}")), Ok(()));
        assert!(check("{}", r#"{"properties": {"a": {"pattern": "(a{1000}){1000}"}}}"#).is_err());
    }
}
