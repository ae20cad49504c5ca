use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use socket2::{Domain, Socket, Type};

use crate::wire::{self, Kind};

/// Handshakes that are under way at once.
const AT_ONCE: usize = 64;
/// Connections from one source address, far from the 28,000 ports that each has.
const PER_ADDRESS: usize = 5_000;
const PATIENCE: Duration = Duration::from_secs(10);

/// A client that the server has taken in.
#[derive(Debug)]
pub struct Client {
    pub stream: TcpStream,
    /// What came right behind the handshake.
    pub rest: Vec<u8>,
}

/// Opens WebSockets, spread over the servers and over source addresses 127.0.0.x. Each has been
/// answered a ping, so its session, with what it subscribes to, is there.
pub fn connect(servers: &[SocketAddr], path: &str, count: usize) -> anyhow::Result<Vec<Client>> {
    let all: Vec<usize> = (0..count).collect();
    let mut clients = Vec::with_capacity(count);
    for chunk in all.chunks(AT_ONCE) {
        let begun: Vec<TcpStream> =
            chunk.iter().map(|&index| begin(servers[index % servers.len()], path, index)).collect::<Result<_, _>>()?;
        for (stream, index) in begun.into_iter().zip(chunk) {
            clients.push(finish(stream).with_context(|| format!("connection {} of {count}", index + 1))?);
        }
    }
    Ok(clients)
}

fn begin(server: SocketAddr, path: &str, index: usize) -> anyhow::Result<TcpStream> {
    let source = Ipv4Addr::new(127, 0, 0, 2 + (index / PER_ADDRESS) as u8);
    let deadline = Instant::now() + PATIENCE;
    let mut stream = loop {
        match open(source, server) {
            // It is about to listen.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            opened => break opened.with_context(|| format!("connection {} to {server}", index + 1))?,
        }
    };
    let mut hello = format!(
        "GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes();
    hello.extend(wire::PING);
    stream.write_all(&hello)?;
    Ok(stream)
}

fn open(source: Ipv4Addr, server: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect_timeout(&server.into(), PATIENCE)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket.into())
}

fn finish(mut stream: TcpStream) -> anyhow::Result<Client> {
    let mut rest = Vec::new();
    let mut upgraded = false;
    loop {
        if !upgraded && let Some(end) = memchr::memmem::find(&rest, b"\r\n\r\n") {
            ensure!(rest.starts_with(b"HTTP/1.1 101"), "refused: {}", String::from_utf8_lossy(&rest));
            rest.drain(..end + 4);
            upgraded = true;
        }
        if upgraded && take_pong(&mut rest) {
            stream.set_nonblocking(true)?;
            return Ok(Client { stream, rest });
        }
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).context("no answer to the handshake")?;
        ensure!(count > 0, "closed during the handshake: {}", String::from_utf8_lossy(&rest));
        rest.extend_from_slice(&buffer[..count]);
    }
}

/// Takes the pong out, and leaves the frames around it.
fn take_pong(bytes: &mut Vec<u8>) -> bool {
    let mut left = &bytes[..];
    let mut start = 0;
    while let Some(frame) = wire::take(&mut left) {
        let end = bytes.len() - left.len();
        if frame.kind == Kind::Pong {
            bytes.drain(start..end);
            return true;
        }
        start = end;
    }
    false
}
