use std::{net::SocketAddr, time::Duration};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// A POST on a connection of its own, with these header lines besides Host and Content-Length:
/// status, and the answer with its head.
pub async fn post(address: SocketAddr, path: &str, headers: &str, body: &[u8]) -> anyhow::Result<(u16, String)> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    );
    let (mut from, mut to) = TcpStream::connect(address).await?.into_split();
    let request = [head.as_bytes(), body].concat();
    let writing = tokio::spawn(async move {
        // A server need not read a body that it refuses.
        drop(to.write_all(&request).await);
        to
    });
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = timeout(PATIENCE, from.read(&mut piece)).await.context("no answer")? {
        answer.extend_from_slice(&piece[..count]);
    }
    writing.abort();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    Ok((status, answer))
}
