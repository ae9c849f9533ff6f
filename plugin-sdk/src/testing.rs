//! Runs a processor natively, for its unit tests.

use crate::bindings::sluicebox::processor::types;
use crate::{Failure, Processor, component};

/// The rows after a processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processed {
    /// The columns of the file, then the added columns.
    pub header: Vec<String>,
    /// Each row with its verdict and its cells.
    pub rows: Vec<(Verdict, Vec<String>)>,
}

/// The verdict on a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The row goes on.
    Keep,
    /// The row is dropped.
    Drop,
    /// The row is rejected: the code and the reason.
    Reject(String, String),
}

impl Processed {
    /// The cells of the rows that go on.
    pub fn kept(&self) -> Vec<&[String]> {
        let kept = self.rows.iter().filter(|(verdict, _)| *verdict == Verdict::Keep);
        kept.map(|(_, cells)| cells.as_slice()).collect()
    }
}

/// Opens a file with the header `header` and processes `rows` as one batch.
///
/// # Errors
/// The failure of the processor.
pub fn run<P: Processor>(config: &str, header: &[&str], rows: &[&[&str]]) -> Result<Processed, Failure> {
    let mut header: Vec<String> = header.iter().map(|&name| name.to_owned()).collect();
    let (session, wanted, added) = component::open::<P>(config, header.clone())?;
    let outcome = session.run(batch(&wanted, rows.iter().copied())).map_err(|failure| match failure {
        types::Failure::Config(message) => Failure::Config(message),
        types::Failure::Data(message) => Failure::Data(message),
    })?;
    let places: Vec<usize> =
        wanted.iter().map(|place| *place as usize).chain(header.len()..header.len() + added.len()).collect();
    header.extend(added);
    let mut cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let mut cells: Vec<String> = row.iter().map(|&cell| cell.to_owned()).collect();
            cells.resize(header.len(), String::new());
            cells
        })
        .collect();
    apply(&outcome, &places, &mut cells);
    let verdicts = (0..).take(rows.len()).map(|row| verdict(&outcome, row));
    Ok(Processed { header, rows: verdicts.zip(cells).collect() })
}

/// Measures a processor without the sandbox. `sluicebox plugin bench` runs it as `examples/native.rs`, with the rows to measure on
/// stdin. Prints `{"ns_per_call": …}`.
pub fn bench<P: Processor>() {
    #[derive(serde::Deserialize)]
    struct Input {
        config: String,
        header: Vec<String>,
        rows: Vec<Vec<String>>,
        warm_up: u32,
        calls: u32,
        rounds: u32,
    }
    let measured = serde_json::from_reader::<_, Input>(std::io::stdin())
        .map_err(|error| Failure::config(error.to_string()))
        .and_then(|input| {
            let (session, wanted, _) = component::open::<P>(&input.config, input.header)?;
            let rows: Vec<Vec<&str>> =
                input.rows.iter().map(|row| row.iter().map(String::as_str).collect()).collect();
            let round = |calls: u32| {
                let mut nanoseconds = 0;
                for _ in 0..calls {
                    let batch = batch(&wanted, rows.iter().map(Vec::as_slice));
                    let begun = std::time::Instant::now();
                    std::hint::black_box(session.run(batch)).map_err(|_| Failure::data("the batch fails"))?;
                    nanoseconds += begun.elapsed().as_nanos();
                }
                Ok(nanoseconds / u128::from(calls.max(1)))
            };
            round(input.warm_up)?;
            (0..input.rounds).try_fold(u128::MAX, |best, _| Ok(best.min(round(input.calls)?)))
        });
    #[expect(clippy::print_stdout, reason = "it prints its result")]
    match measured {
        Ok(nanoseconds) => println!("{{\"ns_per_call\": {nanoseconds}}}"),
        Err(failure) => println!("{{\"failure\": {:?}}}", format!("{failure:?}")),
    }
}

/// The columns `wanted` of some rows.
fn batch<'a>(wanted: &[u32], rows: impl ExactSizeIterator<Item = &'a [&'a str]> + Clone) -> types::Batch {
    let mut input = types::Batch {
        rows: u32::try_from(rows.len()).unwrap_or(u32::MAX),
        data: Vec::new(),
        offsets: Vec::new(),
        validity: Vec::new(),
    };
    for column in wanted {
        input.offsets.push(end(&input.data));
        for row in rows.clone() {
            input.data.extend_from_slice(row.get(*column as usize).unwrap_or(&"").as_bytes());
            input.offsets.push(end(&input.data));
        }
    }
    input
}

fn end(data: &[u8]) -> u32 {
    u32::try_from(data.len()).unwrap_or(u32::MAX)
}

/// Replaces the changed cells; `places` are the places of the session's columns in the rows.
fn apply(outcome: &types::Outcome, places: &[usize], rows: &mut [Vec<String>]) {
    let Some(values) = &outcome.values else { return };
    let columns = values.offsets.chunks_exact(rows.len() + 1);
    for (offsets, changed) in columns.zip(&outcome.changed) {
        let Some(place) = places.get(*changed as usize) else { continue };
        for (row, ends) in rows.iter_mut().zip(offsets.windows(2)) {
            if let ([from, to], Some(cell)) = (ends, row.get_mut(*place)) {
                let bytes = values.data.get(*from as usize..*to as usize).unwrap_or_default();
                *cell = String::from_utf8_lossy(bytes).into_owned();
            }
        }
    }
}

fn verdict(outcome: &types::Outcome, row: u32) -> Verdict {
    match outcome.verdicts.get(row as usize) {
        None | Some(0) => Verdict::Keep,
        Some(1) => Verdict::Drop,
        Some(_) => {
            let rejection = outcome.rejections.iter().find(|rejection| rejection.row == row);
            let (code, reason) =
                rejection.map(|found| (found.code.clone(), found.reason.clone())).unwrap_or_default();
            Verdict::Reject(code, reason)
        }
    }
}
