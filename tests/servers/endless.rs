//! An object store that answers a goal without end, and another as it should.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// What is without end for the goal `bad`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The object: it was listed with 20 bytes.
    LongObject,
    /// The pages of a listing.
    Pages,
    /// The pages of a listing of files that the goal does not take.
    OtherPages,
    /// A page of a listing.
    LongPage,
    /// The body of an error.
    LongError,
}

pub(crate) struct Endless {
    pub(crate) port: u16,
}

impl Endless {
    /// Starts the store, which ends with the process. `good` is the object of the goal `good`.
    pub(crate) fn start(answer: Answer, good: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let pages = Arc::new(AtomicU64::new(0));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let pages = Arc::clone(&pages);
                // A client that has seen enough hangs up.
                thread::spawn(move || while exchange(&stream, answer, good, &pages).is_ok() {});
            }
        });
        Self { port }
    }
}

/// Answers one request.
fn exchange(stream: &TcpStream, answer: Answer, good: &str, pages: &AtomicU64) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    let mut line = String::new();
    reader.read_line(&mut request)?;
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let mut out = stream;
    let Some(target) = request.split(' ').nth(1) else {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    };
    let is_good = target.contains("good");
    if !is_good && answer == Answer::LongError {
        return without_end(out, "403 Forbidden", "<Error><Code>AccessDenied</Code><Message>", "x");
    }
    if target.contains("list-type") {
        let object = |key: &str, size: usize| {
            format!("<Contents><Key>{key}</Key><ETag>\"x-1\"</ETag><Size>{size}</Size></Contents>")
        };
        let start = "<ListBucketResult><Name>b</Name>";
        if is_good {
            let page = format!("{start}{}</ListBucketResult>", object("good/good.csv", good.len()));
            return respond(out, &page);
        }
        let next = || {
            let page = pages.fetch_add(1, Ordering::Relaxed);
            (
                page,
                format!(
                    "<IsTruncated>true</IsTruncated><NextContinuationToken>{page}</NextContinuationToken>"
                ),
            )
        };
        return match answer {
            Answer::LongPage => without_end(out, "200 OK", start, &object("bad/bad.csv", 20)),
            Answer::Pages => {
                let (page, next) = next();
                let objects: String =
                    (0..1000).map(|number| object(&format!("bad/bad-{page}-{number}.csv"), 20)).collect();
                respond(out, &format!("{start}{next}{objects}</ListBucketResult>"))
            }
            Answer::OtherPages => {
                let (_, next) = next();
                respond(out, &format!("{start}{next}{}</ListBucketResult>", object("bad/other.csv", 20)))
            }
            _ => respond(out, &format!("{start}{}</ListBucketResult>", object("bad/bad.csv", 20))),
        };
    }
    match (request.starts_with("HEAD"), is_good) {
        (true, _) => out.write_all(b"HTTP/1.1 200 OK\r\netag: \"x-1\"\r\ncontent-length: 20\r\n\r\n"),
        (false, true) => respond(out, good),
        (false, false) => without_end(out, "206 Partial Content", "email\n", "x@x.example\n"),
    }
}

fn respond(mut out: &TcpStream, body: &str) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\netag: \"x-1\"\r\ncontent-length: {}\r\n\r\n", body.len());
    out.write_all(format!("{head}{body}").as_bytes())
}

fn without_end(mut out: &TcpStream, status: &str, start: &str, more: &str) -> std::io::Result<()> {
    out.write_all(format!("HTTP/1.1 {status}\r\nconnection: close\r\n\r\n{start}").as_bytes())?;
    let more = more.repeat((1 << 16) / more.len());
    loop {
        out.write_all(more.as_bytes())?;
    }
}
