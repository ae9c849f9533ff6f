/// Why a processor cannot continue. The goal fails with this message, so it must not quote a cell or a secret: the host shows
/// `[cell]` and `[secret]` instead, and sends no message of `process` by mail or webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The configuration is wrong, or does not fit the file's columns.
    Config(String),
    /// The data is wrong in a way that no verdict on single rows can express.
    Data(String),
}

impl Failure {
    /// A failure of the configuration.
    pub fn config(message: impl Into<String>) -> Self {
        Self::Config(message.into())
    }

    /// A failure of the data.
    pub fn data(message: impl Into<String>) -> Self {
        Self::Data(message.into())
    }

    /// A key of the configuration with a wrong value. It says what is expected, and not what was found: that may be a
    /// secret.
    ///
    /// ```
    /// use sluicebox_sdk::Failure;
    ///
    /// let failure = Failure::expected("separator", "at least one character");
    /// assert_eq!(failure, Failure::config("separator: expected at least one character"));
    /// ```
    pub fn expected(key: &str, expected: &str) -> Self {
        Self::Config(format!("{key}: expected {expected}"))
    }

    /// The same failure with the place in the configuration before its message.
    ///
    /// ```
    /// use sluicebox_sdk::Failure;
    ///
    /// let failure = Failure::expected("pattern", "a regular expression").at("steps[0]");
    /// assert_eq!(failure, Failure::config("steps[0]: pattern: expected a regular expression"));
    /// ```
    #[must_use]
    pub fn at(self, place: &str) -> Self {
        match self {
            Self::Config(message) => Self::Config(format!("{place}: {message}")),
            Self::Data(message) => Self::Data(format!("{place}: {message}")),
        }
    }
}
