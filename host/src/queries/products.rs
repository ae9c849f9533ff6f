//! The product store: the products that events say were bought.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use jiff::Timestamp;
use rust_decimal::Decimal;
use serde_json::{Value as Json, json};
use sluicebox_model::{Moment, NestedTypeId, Properties, PropertyId, Schema, Value};
use sluicebox_store::{Names, Owner, Store};

use crate::config::Config;
use crate::error::Error;
use crate::queries::view;

/// The property that identifies the product of a nested row, where none is marked `unique`.
const ID_PROPERTIES: [&str; 3] = ["product_id", "sku", "id"];
/// The property that holds how many were bought.
const QUANTITY: &str = "quantity";

/// A product of the product store.
pub(crate) struct Product {
    pub id: String,
    /// How often it was bought.
    pub bought: Decimal,
    pub last_bought: Moment,
    /// The properties of its last nested row.
    pub properties: Json,
}

impl Product {
    /// The product as one JSON object.
    pub(crate) fn json(&self) -> Json {
        let bought = serde_json::from_str::<serde_json::Number>(&self.bought.normalize().to_string());
        json!({
            "product_id": self.id,
            "bought": bought.map_or(Json::Null, Json::Number),
            "last_bought": self.last_bought.to_string(),
            "properties": self.properties,
        })
    }
}

/// The properties of a nested type that hold the product's id and quantity.
struct Columns {
    id: PropertyId,
    quantity: Option<PropertyId>,
}

/// The products that were bought, those bought most often first: the nested rows of the events that feed the product store.
///
/// # Errors
/// If the store fails.
pub(crate) fn products(config: &Config, store: &Store) -> Result<Vec<Product>, Error> {
    let names = store.names();
    let columns = columns(&config.schema, store);
    let mut products: BTreeMap<String, Product> = BTreeMap::new();
    for entry in store.events()? {
        let (_, event) = entry?;
        for (kind, rows) in event.nested.iter().filter(|_| event.product_store) {
            let Some(columns) = columns.get(kind) else { continue };
            rows.iter().for_each(|row| buy(&mut products, &names, columns, row, event.time));
        }
    }
    let mut products: Vec<Product> = products.into_values().collect();
    products.sort_by_key(|product| Reverse(product.bought));
    Ok(products)
}

/// For each nested type, the properties that hold the product.
fn columns(schema: &Schema, store: &Store) -> BTreeMap<NestedTypeId, Columns> {
    let mut columns = BTreeMap::new();
    for event in &schema.events {
        for nested in &event.nested {
            let named = |name: &str| nested.properties.iter().find(|property| property.name == name);
            let marked = nested.properties.iter().find(|property| property.unique);
            let Some(id) = marked.or_else(|| ID_PROPERTIES.iter().find_map(|name| named(name))) else {
                continue;
            };
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
    columns
}

/// Adds a nested row to its product.
fn buy(
    products: &mut BTreeMap<String, Product>,
    names: &Names,
    columns: &Columns,
    row: &Properties,
    time: Moment,
) {
    let get =
        |id: PropertyId| row.iter().find(|(property, _)| *property == id).map(|(_, held)| held.values());
    let Some([id, ..]) = get(columns.id) else { return };
    let quantity = match columns.quantity.and_then(get) {
        Some([Value::Number(quantity), ..]) => *quantity,
        _ => Decimal::ONE,
    };
    let product = products.entry(id.to_string()).or_insert_with(|| Product {
        id: id.to_string(),
        bought: Decimal::ZERO,
        last_bought: Timestamp::MIN.into(),
        properties: Json::Null,
    });
    product.bought = product.bought.saturating_add(quantity);
    if time >= product.last_bought {
        product.last_bought = time;
        product.properties = view::properties(names, row);
    }
}
