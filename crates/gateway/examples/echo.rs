//! Sends back every message, with the gateway's own framing and nothing else of it: what
//! `make autobahn` tests.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::Request,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use clap::Parser;
use gateway::ws::{self, Decoder, Handshake, Incoming, Violation};
use hyper_util::rt::TokioIo;
use protocol::Close;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

/// How long a client has to leave after the close frame.
const GOODBYE: Duration = Duration::from_secs(1);

#[derive(Parser)]
struct Args {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:9001")]
    bind: SocketAddr,
    /// Bytes of the largest message.
    #[arg(long, default_value_t = 32 << 20)]
    max_message_bytes: u32,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let Args { bind, max_message_bytes } = Args::parse();
    let listener = TcpListener::bind(bind).await?;
    let open = move |request| std::future::ready(open(request, max_message_bytes));
    axum::serve(listener, Router::new().fallback(open)).await?;
    Ok(())
}

fn open(mut request: Request, limit: u32) -> Response {
    let key = match Handshake::of(request.method(), request.headers()) {
        Handshake::Valid(key) => key,
        Handshake::Invalid(status, message) => return (status, message).into_response(),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        // An error is the client's leaving, which is how most of Autobahn's cases end.
        if let Ok(upgraded) = upgrade.await {
            drop(serve(TokioIo::new(upgraded), limit).await);
        }
    });
    let headers = [
        (header::CONNECTION, "Upgrade".to_owned()),
        (header::UPGRADE, "websocket".to_owned()),
        (header::SEC_WEBSOCKET_ACCEPT, ws::accept_key(&key)),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

async fn serve(mut socket: impl AsyncRead + AsyncWrite + Unpin, limit: u32) -> std::io::Result<()> {
    let mut decoder = Decoder::new(limit);
    let mut buffer = vec![0; 64 * 1024];
    let mut incoming = Vec::new();
    let last = loop {
        let count = socket.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        let decoded = decoder.read(&buffer[..count], &mut incoming);
        let closed = incoming.contains(&Incoming::Close);
        for message in incoming.drain(..) {
            let answer = match message {
                Incoming::Text(text) => ws::text(&text),
                Incoming::Binary(bytes) => ws::binary(&bytes),
                Incoming::Ping(payload) => ws::pong(&payload),
                Incoming::Pong | Incoming::Close => continue,
            };
            socket.write_all(&answer).await?;
        }
        match decoded {
            Err(Violation(close, reason)) => break ws::close(close, reason),
            Ok(()) if closed => break ws::close(Close::Normal, ""),
            Ok(()) => {}
        }
    };
    socket.write_all(&last).await?;
    socket.shutdown().await?;
    // To close with something unread would take from the client what was sent.
    drop(
        timeout(GOODBYE, async {
            while socket.read(&mut buffer).await? > 0 {}
            std::io::Result::Ok(())
        })
        .await,
    );
    Ok(())
}
