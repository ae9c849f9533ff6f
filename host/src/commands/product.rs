//! `sluicebox product`.

use std::path::Path;

use rust_decimal::Decimal;
use sluicebox_store::Store;

use crate::config::Config;
use crate::error::Error;
use crate::output::print;
use crate::queries::products::products;

/// How to read the product store.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Shows the products that were bought, those bought most often first.
    List {
        /// Prints one JSON object per product.
        #[arg(long)]
        json: bool,
    },
}

/// Shows the products, in one pass over all events.
///
/// # Errors
/// If the configuration is wrong or the store fails.
pub(crate) fn run(folder: &Path, command: &Command) -> Result<u8, Error> {
    let Command::List { json } = command;
    let config = Config::load(folder)?;
    let Some(store) = Store::open_read_only(&config.settings.store)? else { return Ok(0) };
    for product in products(&config, &store)? {
        if *json {
            print(product.json())?;
        } else {
            let (id, bought, last_bought) = (&product.id, product.bought.normalize(), product.last_bought);
            let times = if bought == Decimal::ONE { "time" } else { "times" };
            print(format!("{id}  bought {bought} {times}, last at {last_bought}"))?;
        }
    }
    Ok(0)
}
