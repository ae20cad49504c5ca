//! An HTTP connection: HTTP/1.1, or HTTP/2 by prior knowledge (behind a proxy that speaks it).
//!
//! Its first bytes decide, and they are only looked at: what hyper holds of HTTP/1.1, and what it gives
//! back at an upgrade, is the bare socket.

mod http2;

use std::{io, net::SocketAddr, time::Duration};

use axum::{Router, extract::ConnectInfo};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tower_service::Service;
use tracing::debug;

/// How long requests are still read when the gateway stops: hyper drops a connection at once on which
/// it has not read anything, and with it what the client has sent.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// How long a client has to send the header of its request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// What an HTTP/2 connection begins with, and no HTTP/1.1 one.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long to wait for more of what may become the preface: at first, and at most. Each time it is twice as
/// long, for whoever sends no more is not to cost anything.
const LOOK_AGAIN: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(160)];

/// Ends the connection of a request under its response. Only HTTP/1.1 has one for each.
#[derive(Clone, Default)]
pub struct HangUp(CancellationToken);

impl HangUp {
    /// Now.
    pub fn now(&self) {
        self.0.cancel();
    }
}

/// Serves a connection until it ends, or is upgraded.
pub async fn serve(socket: TcpStream, peer: SocketAddr, router: Router, shutdown: CancellationToken) {
    let nothing_comes = async {
        shutdown.cancelled().await;
        tokio::time::sleep(LAST_WORDS).await;
    };
    let is_http2 = tokio::select! {
        looked = tokio::time::timeout(HEADER_TIMEOUT, is_http2(&socket)) => looked,
        () = nothing_comes => return,
    };
    match is_http2 {
        Ok(Ok(false)) => serve_http1(socket, peer, router, shutdown).await,
        Ok(Ok(true)) => Box::pin(http2::serve(socket, peer, router, shutdown)).await,
        Ok(Err(error)) => debug!(%error, "a client that left before its request"),
        Err(_) => debug!("a client without a request"),
    }
}

/// Whether it begins as HTTP/2 does.
async fn is_http2(socket: &TcpStream) -> io::Result<bool> {
    let (mut first, [mut wait, longest]) = ([0; PREFACE.len()], LOOK_AGAIN);
    loop {
        let count = socket.peek(&mut first).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !PREFACE.starts_with(&first[..count]) {
            return Ok(false);
        }
        if count == PREFACE.len() {
            return Ok(true);
        }
        // What is there already would be seen again at once.
        tokio::time::sleep(wait).await;
        wait = longest.min(wait * 2);
    }
}

async fn serve_http1(socket: TcpStream, peer: SocketAddr, router: Router, shutdown: CancellationToken) {
    let hang_up = HangUp::default();
    let hung_up = hang_up.0.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(hang_up.clone());
        router.clone().call(request)
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let until_served = async {
        tokio::select! {
            served = serving.as_mut() => served,
            () = shutdown.cancelled() => match tokio::time::timeout(LAST_WORDS, serving.as_mut()).await {
                Ok(served) => served,
                Err(_) => {
                    // A request in hand is answered, and no other is taken.
                    serving.as_mut().graceful_shutdown();
                    serving.await
                }
            },
        }
    };
    tokio::select! {
        served = until_served => if let Err(error) = served {
            debug!(%error, "a request that could not be read");
        },
        () = hung_up.cancelled() => debug!("a response that was not read"),
    }
}
