//! Opens WebSockets, a bounded number at a time, on one thread.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use rustix::{
    buffer::spare_capacity,
    event::{Timespec, epoll},
};
use socket2::{Domain, Socket, Type};

use crate::{
    load::Load,
    order::Order,
    pin::Cores,
    wire::{self, Kind},
};

/// Handshakes that are under way at once, where nothing else is said.
pub const AT_ONCE: usize = 64;
/// Connections from one source address, far from the 28,000 ports that each has.
const PER_ADDRESS: usize = 5_000;
const PATIENCE: Duration = Duration::from_secs(20);
const EVENTS: usize = 256;

/// A client that the server has taken in.
#[derive(Debug)]
pub struct Client {
    pub stream: TcpStream,
    /// What came right behind the handshake.
    pub rest: Vec<u8>,
}

/// What a client says first, and what it waits for.
#[derive(Debug, Clone)]
pub struct Hello {
    path: String,
    /// Sent as soon as the server has switched protocols.
    first: Vec<u8>,
    /// The client is in when this kind of frame has come, with this in it.
    sign: (Kind, &'static [u8]),
}

/// Who connects to whom.
#[derive(Debug, Clone)]
pub struct Dialler {
    pub servers: Vec<SocketAddr>,
    pub cores: Cores,
    /// Handshakes that are under way at once.
    pub at_once: usize,
    /// How many others have connected from the same source addresses.
    pub before: usize,
}

struct Pending {
    stream: TcpStream,
    index: usize,
    bytes: Vec<u8>,
    upgraded: bool,
}

impl Hello {
    /// A plain endpoint. Who has answered a ping has a session, with what it subscribes to.
    pub fn plain(path: &str) -> Self {
        Self { path: path.into(), first: wire::PING.into(), sign: (Kind::Pong, b"") }
    }

    /// The native protocol, with one subscription; from a cursor on, if there is one.
    pub fn native(topic: &str, since: Option<&str>) -> Self {
        let since = since.map(|since| format!(r#","since":"{since}""#)).unwrap_or_default();
        let subscribe = format!(r#"{{"type":"subscribe","id":"a","topic":"{topic}"{since}}}"#);
        let first = wire::client_text(&subscribe);
        Self { path: "/rowcast".into(), first, sign: (Kind::Data, br#"{"type":"subscribed""#) }
    }
}

impl Hello {
    /// Another server's protocol: what is said first, and what is in the frame that lets the client in.
    pub fn other(path: &str, first: &str, sign: &'static [u8]) -> Self {
        Self { path: path.into(), first: wire::client_text(first), sign: (Kind::Data, sign) }
    }
}

impl Dialler {
    pub fn new(servers: Vec<SocketAddr>, cores: &Cores) -> Self {
        Self { servers, cores: cores.clone(), at_once: AT_ONCE, before: 0 }
    }

    /// Connects that many, all with the same hello, on a thread of the load client's core.
    pub async fn connect(self, hello: Hello, count: usize) -> anyhow::Result<Vec<Client>> {
        self.connect_to(count, move |_| hello.clone()).await
    }

    /// Connects that many, each with its own hello.
    pub async fn connect_to(
        self,
        count: usize,
        hello: impl Fn(usize) -> Hello + Send + 'static,
    ) -> anyhow::Result<Vec<Client>> {
        let mut clients: Vec<Option<Client>> = std::iter::repeat_with(|| None).take(count).collect();
        let connected = tokio::task::spawn_blocking(move || {
            self.dial(count, hello, |index, client| clients[index] = Some(client))?;
            Ok(clients.into_iter().flatten().collect())
        });
        connected.await?
    }

    /// As [`Dialler::connect_to`], but each client is handed to a running load client as it gets in,
    /// with what it has seen: it answers pings while the others still connect.
    pub async fn connect_into(
        self,
        load: &Load,
        count: usize,
        hello: impl Fn(usize) -> Hello + Send + 'static,
        mut seen: impl FnMut(usize) -> Order + Send + 'static,
    ) -> anyhow::Result<()> {
        let door = load.door();
        let connected = tokio::task::spawn_blocking(move || {
            // If the load client has ended, its end says why.
            self.dial(count, hello, |index, client| drop(door.send((client, seen(index)))))
        });
        connected.await??;
        load.notice()
    }

    /// As [`Dialler::connect_to`], on this thread. Clients are handed over as they get in.
    pub fn dial(
        &self,
        count: usize,
        hello: impl Fn(usize) -> Hello,
        mut hand_over: impl FnMut(usize, Client),
    ) -> anyhow::Result<()> {
        self.cores.as_load()?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut pending: Vec<Option<Pending>> = std::iter::repeat_with(|| None).take(self.at_once).collect();
        let mut free: Vec<usize> = (0..self.at_once).collect();
        let mut events = Vec::with_capacity(EVENTS);
        let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        let (mut next, mut done) = (0, 0);
        while done < count {
            while next < count
                && let Some(slot) = free.pop()
            {
                let begun = self.begin(next, &hello(next).path)?;
                epoll::add(&epoll, &begun.stream, epoll::EventData::new_u64(slot as u64), epoll::EventFlags::IN)?;
                pending[slot] = Some(begun);
                next += 1;
            }
            events.clear();
            match epoll::wait(&epoll, spare_capacity(&mut events), Some(&patience)) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            ensure!(!events.is_empty(), "no answer to a handshake; {done} of {count} are in");
            for event in &events {
                let slot = event.data.u64() as usize;
                let Some(one) = &mut pending[slot] else { continue };
                let is_in =
                    one.read(&hello(one.index)).with_context(|| format!("connection {} of {count}", one.index + 1))?;
                if is_in && let Some(Pending { stream, index, bytes, .. }) = pending[slot].take() {
                    epoll::delete(&epoll, &stream)?;
                    free.push(slot);
                    done += 1;
                    hand_over(index, Client { stream, rest: bytes });
                }
            }
        }
        Ok(())
    }

    fn begin(&self, index: usize, path: &str) -> anyhow::Result<Pending> {
        let server = self.servers[index % self.servers.len()];
        let source = source(self.before + index);
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
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes())?;
        Ok(Pending { stream, index, bytes: Vec::new(), upgraded: false })
    }
}

/// The source address of a connection: 127.0.0.2 and on.
fn source(index: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 0, 0, 2).to_bits() + (index / PER_ADDRESS) as u32)
}

fn open(source: Ipv4Addr, server: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // No port is left waiting when it is closed: many more may come.
    socket.set_linger(Some(Duration::ZERO))?;
    // Its port is found when it connects, where only that pair must be free: quicker by far.
    setsockopt(&socket, IpBindAddressNoPort, &true)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect(&server.into())?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

impl Pending {
    /// Reads what there is; whether the client is in.
    fn read(&mut self, hello: &Hello) -> anyhow::Result<bool> {
        let mut buffer = [0; 4096];
        let count = match self.stream.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => bail!("no answer to the handshake: {error}"),
        };
        ensure!(count > 0, "closed during the handshake: {}", String::from_utf8_lossy(&self.bytes));
        self.bytes.extend_from_slice(&buffer[..count]);
        if !self.upgraded {
            let Some(end) = memchr::memmem::find(&self.bytes, b"\r\n\r\n") else { return Ok(false) };
            ensure!(self.bytes.starts_with(b"HTTP/1.1 101"), "refused: {}", String::from_utf8_lossy(&self.bytes));
            self.bytes.drain(..end + 4);
            self.upgraded = true;
            self.stream.write_all(&hello.first)?;
        }
        take_sign(&mut self.bytes, hello.sign)
    }
}

/// Takes out the frame that says that the client is in, and leaves those behind it.
fn take_sign(bytes: &mut Vec<u8>, (kind, start): (Kind, &[u8])) -> anyhow::Result<bool> {
    let mut left = &bytes[..];
    let mut at = 0;
    while let Some(frame) = wire::take(&mut left) {
        let end = bytes.len() - left.len();
        if frame.kind == kind && memchr::memmem::find(frame.payload, start).is_some() {
            bytes.drain(at..end);
            return Ok(true);
        }
        let is_refusal = frame.kind == Kind::Close || frame.payload.starts_with(br#"{"type":"error""#);
        ensure!(!is_refusal, "refused: {}", String::from_utf8_lossy(frame.payload));
        at = end;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(texts: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        texts.iter().for_each(|text| wire::write_text(&mut bytes, text.as_bytes()));
        bytes
    }

    #[test]
    fn a_client_is_in_when_its_sign_has_come_and_not_if_it_is_refused() {
        let sign = Hello::native("t", None).sign;
        let (hello, subscribed) = (r#"{"type":"hello"}"#, r#"{"type":"subscribed","id":"a"}"#);
        let mut bytes = frames(&[hello, subscribed, "change"]);
        assert!(take_sign(&mut bytes, sign).unwrap());
        assert_eq!(bytes, frames(&[hello, "change"]));
        let mut cut = frames(&[hello, subscribed]);
        cut.pop();
        assert!(!take_sign(&mut cut, sign).unwrap());
        assert!(take_sign(&mut frames(&[r#"{"type":"error","id":"a"}"#]), sign).is_err());
    }

    #[test]
    fn source_addresses_have_ports_to_spare() {
        assert_eq!(source(0), Ipv4Addr::new(127, 0, 0, 2));
        assert_eq!(source(PER_ADDRESS), Ipv4Addr::new(127, 0, 0, 3));
        assert_eq!(source(1_300_000), Ipv4Addr::new(127, 0, 1, 6));
    }
}
