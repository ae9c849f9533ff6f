//! One command per file: it parses its arguments, asks `queries` or `runs`, and prints.

pub(crate) mod accept;
pub(crate) mod check;
pub(crate) mod group;
pub(crate) mod history;
pub(crate) mod init;
pub(crate) mod plugin;
pub(crate) mod preview;
pub(crate) mod product;
pub(crate) mod profile;
pub(crate) mod rejected;
pub(crate) mod run;
pub(crate) mod scan;
pub(crate) mod schedule;
pub(crate) mod segment;
pub(crate) mod serve;
pub(crate) mod store;
pub(crate) mod undo;
