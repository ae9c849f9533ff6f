//! The WIT contract as Rust. These types never leave this crate.

mod generated {
    wasmtime::component::bindgen!({ path: "../../../wit", world: "plugin" });
}

pub(crate) use generated::exports::sluicebox::processor::processor::Guest;
pub(crate) use generated::sluicebox::processor::types::{Batch, Failure, Outcome, Rejection};
pub(crate) use generated::sluicebox::processor::{log, types};
pub(crate) use generated::{Plugin as World, PluginPre as WorldPre};
