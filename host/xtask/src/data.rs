//! Example data for the benchmark and the demo: customers.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Context;

const FIRST: [&str; 12] =
    ["Anna", "Ben", "Cem", "Daan", "Eva", "Femke", "Gül", "Hugo", "Iris", "Jörg", "Karin", "Luc"];
const LAST: [&str; 10] =
    ["de Vries", "Jansen", "Müller", "Yilmaz", "Smith", "Dubois", "Bakker", "Visser", "Rossi", "Novak"];
const CITIES: [&str; 8] = ["Utrecht", "Amsterdam", "Köln", "Gent", "Lyon", "Leeds", "Milano", "Brno"];
const COUNTRIES: [&str; 7] = ["NL", "DE", "BE", "FR", "GB", "IT", "CZ"];
const TAGS: [&str; 6] = ["garden", "books", "music", "travel", "sport", "food"];

/// Writes `rows` customers. Another `round` has other values for the same customers, in another order.
pub(crate) fn customers(path: &Path, rows: u64, round: u64) -> anyhow::Result<()> {
    some_customers(path, rows, rows, round)
}

/// Writes `count` of `rows` customers.
pub(crate) fn some_customers(path: &Path, count: u64, rows: u64, round: u64) -> anyhow::Result<()> {
    let file = File::create(path).with_context(|| path.display().to_string())?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    writeln!(
        out,
        "id,email,first_name,last_name,phone,city,country,birthdate,lifetime_spend,score,tags,updated_at"
    )?;
    // A step that has no factor in common with the number of rows visits each customer once, in a mixed order.
    let step = if round == 0 { 1 } else { coprime(rows, rows / 3 * 2 + 7919 * round) };
    let mut id = round % rows.max(1);
    for _ in 0..count {
        let n = mix(id ^ (round << 40));
        let (first, last) = (pick(&FIRST, mix(id)), pick(&LAST, mix(id) >> 8));
        writeln!(
            out,
            "{id},{first}.{id}@Example{}.com,{first},{last},+316{:08},\"{}, {}\",{},{}-{:02}-{:02},{}.{:02},{},{}|{},2026-{:02}-{:02}T{:02}:{:02}:00Z",
            // The address stays the same in every round.
            mix(id) % 97,
            n % 100_000_000,
            pick(&CITIES, n >> 3),
            n % 200,
            pick(&COUNTRIES, n >> 5),
            1940 + n % 65,
            1 + (n >> 7) % 12,
            1 + (n >> 11) % 28,
            (n >> 13) % 5000,
            (n >> 17) % 100,
            (n >> 19) % 1000,
            pick(&TAGS, n >> 23),
            pick(&TAGS, n >> 29),
            1 + (n >> 31) % 12,
            1 + (n >> 35) % 28,
            (n >> 37) % 24,
            (n >> 41) % 60,
        )?;
        id = (id + step) % rows;
    }
    out.flush()?;
    Ok(())
}

fn pick<'a>(choices: &[&'a str], number: u64) -> &'a str {
    let place = usize::try_from(number).unwrap_or_default() % choices.len().max(1);
    choices.get(place).copied().unwrap_or_default()
}

/// SplitMix64: pseudorandom numbers that are the same everywhere.
fn mix(seed: u64) -> u64 {
    let mut n = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

fn coprime(rows: u64, from: u64) -> u64 {
    let divisor = |mut a: u64, mut b: u64| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    (from.max(1)..).find(|step| divisor(rows, *step) == 1).unwrap_or(1)
}

/// `schema.toml` for these customers.
pub(crate) const SCHEMA: &str = r#"[properties.email]
unique = true
[properties.id]
[properties.first_name]
[properties.last_name]
[properties.phone]
[properties.city]
[properties.country]
[properties.birthdate]
type = "date"
[properties.lifetime_spend]
type = "number"
[properties.score]
type = "number"
[properties.tags]
multiple = true
[properties.updated_at]
type = "datetime"
[properties.domain]
"#;

/// A connection that imports them through some processors.
pub(crate) fn connection(processors: &str) -> String {
    format!(
        r#"name = "Shop"

[location]
kind = "directory"
path = "exchange"

[[import_profiles]]
name = "customers"
directory = "incoming"
files = "customers_*.csv*"
{processors}
[[import_profiles.identifiers]]
column = "email"
property = "email"

[[import_profiles.fields]]
column = "tags"
property = "tags"
rule = "set"
separator = "|"

[import_profiles.all_fields]
rule = "set"
"#
    )
}

/// The entry of the e-mail normalizer.
pub(crate) const NORMALIZER: &str = r#"
[[import_profiles.processors]]
plugin = "email-normalizer"
config = { columns = ["email"], lowercase_local = true }
"#;
