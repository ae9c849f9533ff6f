//! Invariants that the code relies on. A broken invariant is a bug of this program: it stops tests; production logs it and
//! goes on with a harmless value.

use std::panic::Location;
use std::sync::OnceLock;

/// The environment variable that makes broken invariants panic, whatever its value. Cargo sets it for tests
/// (`.cargo/config.toml`).
pub const STRICT: &str = "SLUICEBOX_STRICT";

/// Reports a broken invariant: panics under [`STRICT`], and logs an error otherwise.
#[cold]
#[inline(never)]
#[track_caller]
#[expect(clippy::panic, reason = "tests must stop at a broken invariant")]
pub fn broken(what: std::fmt::Arguments<'_>) {
    static IS_STRICT: OnceLock<bool> = OnceLock::new();
    let place = Location::caller();
    if *IS_STRICT.get_or_init(|| std::env::var_os(STRICT).is_some()) {
        panic!("internal error: {what}, at {place}");
    }
    tracing::error!(target: "sluicebox", %place, "internal error: {what}; please report it");
}

/// Answers with a condition that must never be true. If it is true, reports it with the message that follows (see
/// [`invariant::broken`](crate::invariant::broken)). The message must not quote people's data.
///
/// ```
/// # use sluicebox_model::never;
/// let rows = [1, 2];
/// if never!(rows.len() > 2, "a pair has two rows, and this one {}", rows.len()) {
///     return;
/// }
/// ```
#[macro_export]
macro_rules! never {
    ($is_so:expr, $($what:tt)+) => {{
        let is_so: bool = $is_so;
        if is_so {
            $crate::invariant::broken(format_args!($($what)+));
        }
        is_so
    }};
}

/// For a value that is always there, and a default in case it is not.
pub trait OrNever<T> {
    /// The value. If there is none, reports that `what` is missing (see [`broken`]) and answers with the default.
    fn or_never(self, what: &str) -> T;
}

impl<T: Default> OrNever<T> for Option<T> {
    #[inline]
    #[track_caller]
    fn or_never(self, what: &str) -> T {
        match self {
            Some(value) => value,
            None => {
                broken(format_args!("{what} is missing"));
                T::default()
            }
        }
    }
}

/// For a value that is always there, where the caller has to leave if it is not.
pub trait Expected {
    /// Answers with itself. If there is no value, reports that `what` is missing (see [`broken`]).
    #[must_use]
    fn expected(self, what: &str) -> Self;
}

impl<T> Expected for Option<T> {
    #[inline]
    #[track_caller]
    fn expected(self, what: &str) -> Self {
        if self.is_none() {
            broken(format_args!("{what} is missing"));
        }
        self
    }
}

impl<T: Default, E> OrNever<T> for Result<T, E> {
    #[inline]
    #[track_caller]
    fn or_never(self, what: &str) -> T {
        self.ok().or_never(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invariants_that_hold_change_nothing() {
        assert!(!never!(1 > 2, "one is more than two"));
        assert_eq!(Some(3).or_never("the number"), 3);
        assert_eq!(Some(3).expected("the number"), Some(3));
    }

    #[test]
    #[should_panic = "internal error: the number is missing, at "]
    fn a_broken_invariant_stops_a_test() {
        // Cargo sets the variable, as do the tests that start the program.
        assert!(std::env::var_os(STRICT).is_some());
        None::<u8>.or_never("the number");
    }
}
