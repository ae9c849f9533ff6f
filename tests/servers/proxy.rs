//! Stands between a client and a server and breaks what it is told to.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

/// What goes wrong.
#[derive(Clone)]
pub(crate) enum Fault {
    /// The connection is cut after so many bytes of an answer, so many times.
    Cut { after: usize, times: i64 },
    /// So many requests get this answer: status line and headers, body.
    Answer { head: &'static str, body: String, times: i64 },
    /// Of the requests for a range, this one, counted from 1, waits twice: until the test has come so far, and until
    /// it has done what it does meanwhile.
    Hold { request: i64, meet: Arc<Barrier> },
}

pub(crate) struct Proxy {
    pub(crate) port: u16,
    /// How often it went wrong.
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

/// Passes requests on, one after the other. None of those that are tested has a body.
fn pass(
    mut client: TcpStream,
    server: u16,
    fault: &Fault,
    left: &AtomicI64,
    faults: &AtomicU64,
) -> Option<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).ok()?;
            head.push(byte[0]);
        }
        let ranged = head.to_ascii_lowercase().windows(7).any(|window| window == b"\r\nrange");
        let hit = match fault {
            Fault::Cut { .. } => ranged && left.fetch_sub(1, Ordering::SeqCst) > 0,
            Fault::Answer { .. } => left.fetch_sub(1, Ordering::SeqCst) > 0,
            Fault::Hold { .. } => ranged && left.fetch_sub(1, Ordering::SeqCst) == 1,
        };
        faults.fetch_add(u64::from(hit), Ordering::SeqCst);
        if let (Fault::Answer { head, body, .. }, true) = (fault, hit) {
            let answer = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            client.write_all(answer.as_bytes()).ok()?;
            continue;
        }
        if let (Fault::Hold { meet, .. }, true) = (fault, hit) {
            meet.wait();
            meet.wait();
        }
        let mut upstream = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).ok()?;
        let text = String::from_utf8_lossy(&head).replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
        upstream.write_all(text.as_bytes()).ok()?;
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
