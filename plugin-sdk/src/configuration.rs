use serde::de::DeserializeOwned;

use crate::Failure;

/// Reads a configuration. An error names the key and what is expected there, and never the value: that may
/// be a secret.
pub(crate) fn parse<C: DeserializeOwned>(json: &str) -> Result<C, Failure> {
    let mut input = serde_json::Deserializer::from_str(json);
    serde_path_to_error::deserialize(&mut input).map_err(|error| {
        let path = error.path().to_string();
        let message = without_value(&error.into_inner().to_string());
        Failure::config(if path == "." { message } else { format!("{path}: {message}") })
    })
}

/// serde writes "invalid type: string "…", expected …" and "unknown variant `…`, expected …".
fn without_value(message: &str) -> String {
    let message = message.split(" at line ").next().unwrap_or(message);
    match message.find(", expected ") {
        Some(place) if message.starts_with("invalid ") || message.starts_with("unknown variant") => {
            message.get(place + 2..).unwrap_or(message).to_owned()
        }
        _ if message.starts_with("invalid ") => "the value is invalid".to_owned(),
        _ => message.to_owned(),
    }
}

pub(crate) fn schema<C: schemars::JsonSchema>() -> String {
    schemars::schema_for!(C).as_value().to_string()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        #[expect(dead_code, reason = "only parsed")]
        keys: Vec<u32>,
    }

    #[test]
    fn errors_name_the_place_and_not_the_value() {
        let check = |json: &str, expected: &str| {
            assert_eq!(parse::<Config>(json).unwrap_err(), Failure::config(expected));
        };
        check(r#"{"keys": [1, "hunter2"]}"#, "keys[1]: expected u32");
        check(r#"{"key": []}"#, "key: unknown field `key`, expected `keys`");
        check("{}", "missing field `keys`");
        check(r#""hunter2""#, "expected struct Config");
    }
}
