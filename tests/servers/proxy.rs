//! A proxy between a client and a server that injects faults.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread;

use crate::workspace::wait::{patient, wait_for};

/// What goes wrong.
#[derive(Clone)]
pub(crate) enum Fault {
    /// Cuts the connection after `after` bytes of a response, `times` times.
    Cut { after: usize, times: i64 },
    /// Answers `times` requests with this response: status line and headers, body.
    Answer { head: &'static str, body: String, times: i64 },
    /// Holds range request number `request`, from 1, at the gate.
    Hold { request: i64, gate: Gate },
    /// Holds the first request that writes an object or a part of one at the gate.
    HoldWrite { gate: Gate },
}

/// Where a request waits until the test lets it through.
#[derive(Clone, Default)]
pub(crate) struct Gate {
    reached: Arc<AtomicBool>,
    open: Arc<AtomicBool>,
}

impl Gate {
    /// Waits until the request is at the gate.
    pub(crate) fn wait_until_reached(&self) {
        wait_for("the request at the gate", || self.reached.load(Ordering::SeqCst).then_some(()));
    }

    /// Lets the request through.
    pub(crate) fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }

    /// The request is there, and waits until the gate is open.
    fn pass(&self) {
        self.reached.store(true, Ordering::SeqCst);
        wait_for("the test to open the gate", || self.open.load(Ordering::SeqCst).then_some(()));
    }
}

pub(crate) struct Proxy {
    pub(crate) port: u16,
    /// How many faults there were.
    pub(crate) faults: Arc<AtomicU64>,
}

impl Proxy {
    pub(crate) fn start(server: u16, fault: Fault) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let faults = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&faults);
        let times = match &fault {
            Fault::Cut { times, .. } | Fault::Answer { times, .. } => *times,
            Fault::Hold { request, .. } => *request,
            Fault::HoldWrite { .. } => 1,
        };
        let left = Arc::new(AtomicI64::new(times));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (fault, left, faults) = (fault.clone(), Arc::clone(&left), Arc::clone(&counted));
                thread::spawn(move || pass(client, server, &fault, &left, &faults));
            }
        });
        Self { port, faults }
    }
}

/// Passes requests on, one after the other. `None`: the connection has ended.
fn pass(client: TcpStream, server: u16, fault: &Fault, left: &AtomicI64, faults: &AtomicU64) -> Option<()> {
    let mut client = patient(client);
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).ok()?;
            head.push(byte[0]);
        }
        let lower = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let ranged = lower.contains("\r\nrange");
        let length = lower.split_once("\r\ncontent-length:").and_then(|(_, rest)| rest.split_once('\r'));
        let mut body = vec![0; length.map_or(0, |(length, _)| length.trim().parse().unwrap())];
        client.read_exact(&mut body).ok()?;
        let hit = match fault {
            Fault::Cut { .. } => ranged && left.fetch_sub(1, Ordering::SeqCst) > 0,
            Fault::Answer { .. } => left.fetch_sub(1, Ordering::SeqCst) > 0,
            Fault::Hold { .. } => ranged && left.fetch_sub(1, Ordering::SeqCst) == 1,
            Fault::HoldWrite { .. } => lower.starts_with("put") && left.fetch_sub(1, Ordering::SeqCst) == 1,
        };
        faults.fetch_add(u64::from(hit), Ordering::SeqCst);
        if let (Fault::Answer { head, body, .. }, true) = (fault, hit) {
            let answer = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            client.write_all(answer.as_bytes()).ok()?;
            continue;
        }
        if let (Fault::Hold { gate, .. } | Fault::HoldWrite { gate }, true) = (fault, hit) {
            gate.pass();
        }
        let mut upstream = patient(TcpStream::connect((Ipv4Addr::LOCALHOST, server)).ok()?);
        let text = String::from_utf8_lossy(&head).replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
        upstream.write_all(text.as_bytes()).ok()?;
        upstream.write_all(&body).ok()?;
        let mut rest = match fault {
            Fault::Cut { after, .. } if hit => *after,
            _ => usize::MAX,
        };
        let mut buffer = vec![0; 64 << 10];
        while rest > 0 {
            let room = buffer.len().min(rest);
            match upstream.read(&mut buffer[..room]) {
                Ok(0) | Err(_) => break,
                Ok(length) => {
                    client.write_all(&buffer[..length]).ok()?;
                    rest -= length;
                }
            }
        }
        client.shutdown(Shutdown::Both).ok()?;
        return None;
    }
}
