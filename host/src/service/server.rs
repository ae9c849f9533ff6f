//! The HTTP server. It bounds how many connections there are and how long each may wait for its client: headers that never
//! end, half-sent bodies and silent connections take nothing from the others.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody, to_bytes};
use axum::extract::{ConnectInfo, Request};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::access::Caller;
use super::api::Failure;
use super::stopped;

/// Connections at a time; further ones wait to be accepted.
const MAX_CONNECTIONS: u64 = 1000;
/// How long a client may take to send the headers of a request, and stay silent between two requests.
const HEADER_TIME: Duration = Duration::from_secs(10);
/// Bytes of a request's headers.
const MAX_HEADERS: usize = 64 << 10;
/// How long a client may take to send the body of a request.
const BODY_TIME: Duration = Duration::from_secs(20);
/// Bytes of a request's body.
const MAX_BODY: usize = 1 << 20;
/// Bytes of the body of a request without a token: of a sign-in.
const MAX_PUBLIC_BODY: usize = 16 << 10;
/// How long, in milliseconds, a client may accept no byte of an answer.
const STALL_TIME: u32 = 30_000;
/// File descriptors that the service asks for.
const MAX_DESCRIPTORS: u64 = 65_536;
/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Raises the limit of file descriptors as far as the system allows, up to [`MAX_DESCRIPTORS`].
pub(super) fn raise_descriptor_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(MAX_DESCRIPTORS, |maximum| maximum.min(MAX_DESCRIPTORS));
    if current.is_some_and(|current| current < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
    {
        tracing::warn!(%error, "the limit of file descriptors cannot be raised");
    }
}

/// Half of the descriptors at most: runs need the others.
fn max_connections() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(MAX_DESCRIPTORS);
    usize::try_from((descriptors / 2).clamp(1, MAX_CONNECTIONS)).unwrap_or(1)
}

/// Answers on a listener until the service stops, and then until the last answer is sent.
pub(super) async fn serve(listener: TcpListener, app: Router, stopping: watch::Receiver<bool>) {
    let permits = Arc::new(Semaphore::new(max_connections()));
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let permit = Arc::clone(&permits).acquire_owned().await.ok();
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            accepted = accepted => accepted,
            () = stopped(stopping.clone()) => break,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, from)) => {
                connections.spawn(answer(stream, from, app.clone(), stopping.clone(), permit));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Answers the requests of a connection.
async fn answer(
    stream: TcpStream,
    from: SocketAddr,
    app: Router,
    stopping: watch::Receiver<bool>,
    _permit: Option<OwnedSemaphorePermit>,
) {
    let options = stream
        .set_nodelay(true)
        .and_then(|()| Ok(rustix::net::sockopt::set_tcp_user_timeout(&stream, STALL_TIME)?));
    if let Err(error) = options {
        tracing::debug!(%error, "options of a connection cannot be set");
    }
    let app = TowerToHyperService::new(app);
    let app = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(from));
        app.call(request)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIME).max_buf_size(MAX_HEADERS);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), app));
    let done = tokio::select! {
        done = connection.as_mut() => done,
        () = stopped(stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = done {
        tracing::debug!(%from, %error, "a connection ended early");
    }
}

/// Reads the body of a request before it is handled, within its time and size.
pub(super) async fn read_body(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let is_public = request.extensions().get::<Caller>().is_none();
    let max = if is_public { MAX_PUBLIC_BODY } else { MAX_BODY };
    let (parts, body) = request.into_parts();
    match tokio::time::timeout(BODY_TIME, to_bytes(body, max)).await {
        Ok(Ok(bytes)) => next.run(Request::from_parts(parts, Body::from(bytes))).await,
        // A client that left does not read the answer.
        Ok(Err(_)) => {
            let detail = format!("the body has more than {max} bytes");
            Failure::new(StatusCode::PAYLOAD_TOO_LARGE, detail).into_response()
        }
        Err(_) => {
            Failure::new(StatusCode::REQUEST_TIMEOUT, "the body took too long to arrive").into_response()
        }
    }
}
