use schemars::JsonSchema;
use serde::Deserialize;

/// What to do with a cell that does not hold what the processor expects.
///
/// A field of a configuration: `"empty"` (the default), `"reject"` or `"keep"`.
///
/// ```
/// use sluicebox_sdk::Invalid;
///
/// #[derive(serde::Deserialize)]
/// struct Config {
///     #[serde(default)]
///     invalid: Invalid,
/// }
///
/// let config: Config = serde_json::from_str(r#"{"invalid": "keep"}"#).unwrap();
/// assert_eq!(config.invalid, Invalid::Keep);
/// assert_eq!(config.invalid.replacement("n/a"), "n/a");
/// assert_eq!(Invalid::default().replacement("n/a"), "");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Invalid {
    /// Empty the cell.
    #[default]
    Empty,
    /// Reject the row.
    Reject,
    /// Leave the cell unchanged.
    Keep,
}

impl Invalid {
    /// The cell to write in place of an invalid one.
    pub fn replacement(self, cell: &str) -> &str {
        if self == Self::Keep { cell } else { "" }
    }
}
