//! `sluicebox product`.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use rust_decimal::Decimal;
use serde_json::{Value as Json, json};
use sluicebox_model::{NestedTypeId, Properties, PropertyId, Schema, Value};
use sluicebox_store::{Names, Owner, Store};

use crate::cli::print;
use crate::config::Config;
use crate::error::Error;
use crate::view;

/// How to read the product store.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Shows the products that were bought, those bought most often first.
    List {
        /// One JSON object a product.
        #[arg(long)]
        json: bool,
    },
}

/// The property of a nested row that says which product it is, where none is marked `unique`.
const IDS: [&str; 3] = ["product_id", "sku", "id"];
/// The property that says how many were bought.
const QUANTITY: &str = "quantity";

struct Product {
    bought: Decimal,
    last_bought: Timestamp,
    properties: Json,
}

/// What of a nested type's rows says which product was bought, and how many.
struct Columns {
    id: PropertyId,
    quantity: Option<PropertyId>,
}

/// Counts the nested rows of the events that feed the product store, in one pass over all events.
///
/// # Errors
/// If the configuration is wrong or the store fails.
pub(crate) fn run(folder: &Path, command: &Command) -> Result<u8, Error> {
    let Command::List { json } = command;
    let config = Config::load(folder)?;
    let Some(store) = Store::open_read_only(&config.settings.store)? else { return Ok(0) };
    let names = store.names();
    let columns = columns(&config.schema, &store)?;
    let mut products: BTreeMap<String, Product> = BTreeMap::new();
    for entry in store.events()? {
        let (_, event) = entry?;
        for (kind, rows) in event.nested.iter().filter(|_| event.product_store) {
            let Some(columns) = columns.get(kind) else { continue };
            rows.iter().for_each(|row| buy(&mut products, &names, columns, row, event.time));
        }
    }
    let mut products: Vec<(String, Product)> = products.into_iter().collect();
    products.sort_by_key(|(_, product)| Reverse(product.bought));
    for (id, product) in products {
        if *json {
            let bought = serde_json::from_str::<serde_json::Number>(&product.bought.normalize().to_string());
            print(json!({
                "product_id": id,
                "bought": bought.map_or(Json::Null, Json::Number),
                "last_bought": product.last_bought.to_string(),
                "properties": product.properties,
            }))?;
        } else {
            print(format!(
                "{id}  bought {} times, last at {}",
                product.bought.normalize(),
                product.last_bought
            ))?;
        }
    }
    Ok(0)
}

/// For each nested type, the property that identifies a product.
fn columns(schema: &Schema, store: &Store) -> Result<BTreeMap<NestedTypeId, Columns>, Error> {
    let mut columns = BTreeMap::new();
    for event in &schema.events {
        for nested in &event.nested {
            let named = |name: &str| nested.properties.iter().find(|property| property.name == name);
            let marked = nested.properties.iter().find(|property| property.unique);
            let Some(id) = marked.or_else(|| IDS.iter().find_map(|name| named(name))) else { continue };
            let owner = Owner::Nested(&event.name, &nested.name);
            let number = |name: &str| store.known_property(owner, name);
            let (Some(kind), Some(id)) =
                (store.known_nested_type(&event.name, &nested.name), number(&id.name))
            else {
                continue;
            };
            columns.insert(kind, Columns { id, quantity: named(QUANTITY).and_then(|_| number(QUANTITY)) });
        }
    }
    Ok(columns)
}

fn buy(
    products: &mut BTreeMap<String, Product>,
    names: &Names,
    columns: &Columns,
    row: &Properties,
    time: Timestamp,
) {
    let get =
        |id: PropertyId| row.iter().find(|(property, _)| *property == id).map(|(_, held)| held.values());
    let Some([id, ..]) = get(columns.id) else { return };
    let quantity = match columns.quantity.and_then(get) {
        Some([Value::Number(quantity), ..]) => *quantity,
        _ => Decimal::ONE,
    };
    let product = products.entry(id.to_string()).or_insert_with(|| Product {
        bought: Decimal::ZERO,
        last_bought: Timestamp::MIN,
        properties: Json::Null,
    });
    product.bought = product.bought.saturating_add(quantity);
    if time >= product.last_bought {
        product.last_bought = time;
        product.properties = view::properties(names, row);
    }
}
