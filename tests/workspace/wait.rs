//! Every wait of a test, with its deadline. A test that waits for something that never happens fails and says what it
//! waited for.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails says where"
)]

use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ExitStatus, Output};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long a test waits for anything: longer than the slowest build of a plugin on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(900);

/// How often a condition is looked at. No test depends on it: it keeps a test that waits from taking the processor away
/// from the program that it waits for.
const POLL: Duration = Duration::from_millis(1);

/// A moment by which something must have happened.
#[derive(Clone, Copy)]
struct Deadline {
    patience: Duration,
    at: Instant,
}

impl Deadline {
    fn after(patience: Duration) -> Self {
        Self { patience, at: Instant::now() + patience }
    }

    /// The time until then; `None` if it has passed.
    fn left(self) -> Option<Duration> {
        self.at.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    /// What `condition` gives; `None` if it gives nothing before the deadline.
    fn poll<T>(self, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
        loop {
            if let Some(found) = condition() {
                return Some(found);
            }
            self.left()?;
            thread::sleep(POLL);
        }
    }

    /// Fails the test: `what` did not happen in time.
    fn missed(self, what: &str) -> ! {
        panic!("waited {} s for {what}", self.patience.as_secs())
    }
}

/// Waits until `condition` gives something, and returns it.
///
/// # Panics
/// If it gives nothing for [`PATIENCE`].
pub(crate) fn wait_for<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Deadline::after(PATIENCE);
    deadline.poll(condition).unwrap_or_else(|| deadline.missed(what))
}

/// Waits until a process has ended.
///
/// # Panics
/// If it runs for longer than [`PATIENCE`]. The process is killed first.
pub(crate) fn wait_for_exit(process: &mut Child, what: &str) -> ExitStatus {
    exit_before(Deadline::after(PATIENCE), process, what)
}

fn exit_before(deadline: Deadline, process: &mut Child, what: &str) -> ExitStatus {
    match deadline.poll(|| process.try_wait().unwrap()) {
        Some(status) => status,
        None => {
            let _ = process.kill();
            let _ = process.wait();
            deadline.missed(&format!("{what} to end"))
        }
    }
}

/// Like [`Child::wait_with_output`], with a deadline.
///
/// # Panics
/// If the process runs for longer than `patience`. The process is killed first, and the message has what it printed.
pub(crate) fn wait_with_output(mut process: Child, what: &str, patience: Duration) -> Output {
    let deadline = Deadline::after(patience);
    drop(process.stdin.take());
    let stdout = process.stdout.take().map(chunks);
    let stderr = process.stderr.take().map(chunks);
    let [(stdout, stdout_ended), (stderr, stderr_ended)] =
        [stdout, stderr].map(|chunks| chunks.map_or((Vec::new(), true), |chunks| collect(&chunks, deadline)));
    if !(stdout_ended && stderr_ended) {
        let _ = process.kill();
        let _ = process.wait();
        let printed = [stdout, stderr].concat();
        deadline.missed(&format!("{what} to end. It printed:\n{}", String::from_utf8_lossy(&printed)));
    }
    let status = exit_before(deadline, &mut process, what);
    Output { status, stdout, stderr }
}

/// What a stream gives, read by a thread of its own, which ends with the stream.
fn chunks(mut stream: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// All that a stream gives before the deadline, and whether it ended before.
fn collect(chunks: &Receiver<Vec<u8>>, deadline: Deadline) -> (Vec<u8>, bool) {
    let mut collected = Vec::new();
    loop {
        match chunks.recv_timeout(deadline.left().unwrap_or_default()) {
            Ok(chunk) => collected.extend_from_slice(&chunk),
            Err(error) => return (collected, error == RecvTimeoutError::Disconnected),
        }
    }
}

/// The lines of a stream, as they arrive. A thread reads them even if the test does not, so that the program that
/// writes them never has to wait.
pub(crate) struct Lines {
    what: &'static str,
    lines: Receiver<String>,
}

impl Lines {
    /// `what` names the stream in the message of a test that waits too long.
    pub(super) fn of(what: &'static str, stream: impl Read + Send + 'static) -> Self {
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                // The test may have stopped listening. The stream is read all the same.
                let _ = sender.send(line);
            }
        });
        Self { what, lines }
    }
}

impl Iterator for Lines {
    type Item = String;

    /// The next line; `None` when the stream has ended.
    ///
    /// # Panics
    /// If the stream neither has a line nor ends for [`PATIENCE`].
    fn next(&mut self) -> Option<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                Deadline::after(PATIENCE).missed(&format!("a line of {}", self.what))
            }
        }
    }
}

/// Waits until a client connects. What is read from it later has the same deadline.
pub(super) fn accept(listener: &TcpListener, what: &str) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let (stream, _) = wait_for(what, || listener.accept().ok());
    stream.set_nonblocking(false).unwrap();
    patient(stream)
}

/// The same connection. Reads and writes fail after [`PATIENCE`].
pub(crate) fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}
