//! Attacks the host in the way that its configuration names. It uses the bindings, because the SDK does not allow malformed
//! answers.
#![cfg(target_arch = "wasm32")]
#![expect(clippy::panic, reason = "an attack")]

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};

use sluicebox_sdk::bindings;
use sluicebox_sdk::bindings::exports::sluicebox::processor::processor::{
    Description, Guest, GuestSession, Opened, Session,
};
use sluicebox_sdk::bindings::sluicebox::processor::log::{Level, write};
use sluicebox_sdk::bindings::sluicebox::processor::types::{Batch, Failure, Outcome, Rejection};

struct Attacker;

struct Attack {
    name: String,
}

impl Guest for Attacker {
    type Session = Attack;

    fn describe() -> Description {
        let text = |text: &str| text.to_owned();
        Description {
            name: text("attacker"),
            version: text("1.0.0"),
            summary: text("Attacks \u{1b}[31mthe host."),
            config_schema: text("{}"),
        }
    }
}

impl GuestSession for Attack {
    fn open(config: String, _: Vec<String>) -> Result<Opened, Failure> {
        let name = config.split('"').nth(3).unwrap_or_default().to_owned();
        match name.as_str() {
            "loop-in-open" => endless(),
            "config" => return Err(Failure::Config("no \u{1b}[31mgood".to_owned())),
            _ => {}
        }
        let wanted = match name.as_str() {
            "want-beyond" => vec![9],
            "want-twice" => vec![0, 0],
            "want-a-million" => vec![0; 1_000_000],
            _ => vec![0],
        };
        let added = match name.as_str() {
            "add-what-is-there" => vec!["email".to_owned()],
            "add-twice" => vec!["new".to_owned(), "new".to_owned()],
            "add-unnamed" => vec![String::new()],
            "add-a-long-name" => vec!["x".repeat(2000)],
            "add-thousands" => (0..60_000).map(|number| number.to_string()).collect(),
            _ => Vec::new(),
        };
        Ok(Opened { session: Session::new(Self { name }), wanted, added })
    }

    fn process(&self, input: Batch) -> Result<Outcome, Failure> {
        if let Some(backwards) = self.name.strip_prefix("search:") {
            search(&backwards.bytes().rev().collect::<Vec<_>>());
        }
        let rows = input.rows as usize;
        let mut outcome = Outcome { verdicts: vec![], rejections: vec![], changed: vec![], values: None };
        let values = |data: &[u8], offsets: Vec<u32>| {
            Some(Batch { rows: input.rows, data: data.to_vec(), offsets, validity: vec![] })
        };
        let rejection =
            |row: u32| Rejection { row, column: None, code: "x".to_owned(), reason: String::new() };
        match self.name.as_str() {
            "loop" => endless(),
            "memory" => {
                let mut held = Vec::new();
                loop {
                    held.push(black_box(vec![1u8; 1 << 20]));
                }
            }
            "stack" => {
                black_box(deeper(black_box(1)));
            }
            "wide-stack" => {
                black_box(wider(black_box(1)));
            }
            "panic" => panic!("on purpose"),
            "data" => return Err(Failure::Data("bad data".to_owned())),
            "log-flood" => (0..100_000).for_each(|_| write(Level::Error, "\u{1b}[2Jflood")),
            "few-verdicts" => outcome.verdicts = vec![0; rows - 1],
            "verdict-7" => outcome.verdicts = vec![7; rows],
            "no-rejections" => outcome.verdicts = vec![2; rows],
            "rejection-beyond" => outcome.rejections = vec![rejection(input.rows)],
            "many-rejections" => outcome.rejections = (0..500_000).map(|_| rejection(0)).collect(),
            "unknown-column" => {
                outcome.changed = vec![1];
                outcome.values = values(b"", vec![0; rows + 1]);
            }
            "doubled-column" => {
                outcome.changed = vec![0, 0];
                outcome.values = values(b"", vec![0; 2 * (rows + 1)]);
            }
            "offsets-beyond" => {
                outcome.changed = vec![0];
                outcome.values = values(b"ab", vec![u32::MAX; rows + 1]);
            }
            "falling-offsets" => {
                outcome.changed = vec![0];
                outcome.values = values(b"ab", (0..=input.rows).rev().collect());
            }
            "inside-a-character" => {
                outcome.changed = vec![0];
                outcome.values = values("é".as_bytes(), vec![0, 1, 2]);
            }
            "few-offsets" => {
                outcome.changed = vec![0];
                outcome.values = values(b"", vec![0; rows]);
            }
            "not-utf-8" => {
                outcome.changed = vec![0];
                outcome.values = values(&[0xff], (0..=input.rows).map(|n| n.min(1)).collect());
            }
            "other-rows" => {
                outcome.changed = vec![0];
                outcome.values = Some(Batch { rows: 1, data: vec![], offsets: vec![0, 0], validity: vec![] });
            }
            "short-validity" => {
                outcome.changed = vec![0];
                outcome.values = Some(Batch {
                    rows: input.rows,
                    data: vec![],
                    offsets: vec![0; rows + 1],
                    validity: vec![1, 2, 3],
                });
            }
            _ => {}
        }
        Ok(outcome)
    }
}

fn endless() -> ! {
    let mut number = 0u64;
    loop {
        number = black_box(number.wrapping_add(1));
    }
}

/// Never set, which the compiler does not know.
static STOP: AtomicBool = AtomicBool::new(false);

#[inline(never)]
fn deeper(number: u64) -> u64 {
    if STOP.load(Ordering::Relaxed) {
        return number;
    }
    deeper(number.wrapping_add(1)).rotate_left(5) ^ number
}

/// Each call takes much of the stack in the memory of the plugin.
fn wider(number: u64) -> u64 {
    let held = black_box([number; 64]);
    if STOP.load(Ordering::Relaxed) {
        return number;
    }
    wider(number.wrapping_add(1)).wrapping_add(held.iter().sum())
}

bindings::export!(Attacker with_types_in bindings);

/// Panics if the text is anywhere in the memory except where it was made just now.
#[expect(unsafe_code, reason = "an attack")]
fn search(text: &[u8]) {
    let end = core::arch::wasm32::memory_size(0) << 16;
    let memory = unsafe { std::slice::from_raw_parts(1024 as *const u8, end - 1024) };
    let found = memory.windows(text.len()).filter(|window| *window == text);
    assert!(found.count() <= 1, "found");
}
