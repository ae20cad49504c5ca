//! Server-Sent Events, as a browser's `EventSource` reads them, with as little between the test and the
//! wire as can be.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::socket::Refusal;

/// A response that goes on.
#[derive(Debug)]
pub struct EventStream {
    /// What came before the events.
    pub head: String,
    /// The connection.
    pub socket: TcpStream,
    raw: Vec<u8>,
    body: Vec<u8>,
    /// Whether the response has come to its end.
    ended: bool,
}

/// An event, or a comment, or what stands alone.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Event {
    /// Where its reader is then.
    pub id: Option<String>,
    /// One without a name is a `message`.
    pub name: Option<String>,
    /// What it says.
    pub data: String,
    /// After how many milliseconds its reader is to come back.
    pub retry: Option<u64>,
    /// Whether it is a comment, which nobody reads.
    pub comment: bool,
}

impl EventStream {
    /// Asks, with more header lines: `"Last-Event-ID: k3f9.1042\r\n"`. What is not 200 is a refusal.
    pub async fn open(address: SocketAddr, path: &str, headers: &str) -> Result<Self, Refusal> {
        let mut socket = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n");
        socket.write_all(request.as_bytes()).await?;
        let mut raw = Vec::new();
        let end = loop {
            if let Some(end) = raw.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            read_more(&mut socket, &mut raw).await?;
        };
        let mut rest = raw.split_off(end);
        let head = String::from_utf8_lossy(&raw).into_owned();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        if status == 200 {
            return Ok(Self { head, socket, raw: rest, body: Vec::new(), ended: false });
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        while rest.len() < length {
            read_more(&mut socket, &mut rest).await?;
        }
        Err(Refusal::Http(status, head + &String::from_utf8_lossy(&rest)))
    }

    /// Whatever comes next; `None` at the end of the response. The end of the connection is an error.
    pub async fn next(&mut self) -> io::Result<Option<Event>> {
        loop {
            if let Some(end) = self.body.windows(2).position(|bytes| bytes == b"\n\n") {
                let block: Vec<u8> = self.body.drain(..end + 2).collect();
                return Event::parse(&block[..end]).map(Some);
            }
            if self.take_chunk()? {
                continue;
            }
            if self.ended {
                return Ok(None);
            }
            read_more(&mut self.socket, &mut self.raw).await?;
        }
    }

    /// Takes a chunk of what was read; whether there was one.
    fn take_chunk(&mut self) -> io::Result<bool> {
        let Some(line) = self.raw.windows(2).position(|bytes| bytes == b"\r\n") else { return Ok(false) };
        let digits = String::from_utf8_lossy(&self.raw[..line]).into_owned();
        let wrong = |_| io::Error::other(format!("a chunk that begins with {digits:?}"));
        let size = usize::from_str_radix(&digits, 16).map_err(wrong)?;
        let end = line + 2 + size;
        if self.raw.len() < end + 2 {
            return Ok(false);
        }
        self.body.extend_from_slice(&self.raw[line + 2..end]);
        self.raw.drain(..end + 2);
        self.ended |= size == 0;
        Ok(true)
    }
}

impl Event {
    /// What it says.
    ///
    /// # Panics
    ///
    /// If that is not JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.data).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// As the standard says, of the lines that are allowed here.
    fn parse(block: &[u8]) -> io::Result<Self> {
        let text = std::str::from_utf8(block).map_err(io::Error::other)?;
        let mut event = Self::default();
        let mut data = Vec::new();
        for line in text.lines() {
            let wrong = || io::Error::other(format!("no line of an event: {line:?}"));
            match line.split_once(": ").unwrap_or((line, "")) {
                ("id", id) => event.id = Some(id.into()),
                ("event", name) => event.name = Some(name.into()),
                ("data", line) => data.push(line),
                ("retry", ms) => event.retry = Some(ms.parse().map_err(|_| wrong())?),
                (":", _) => event.comment = true,
                _ => return Err(wrong()),
            }
        }
        event.data = data.join("\n");
        Ok(event)
    }
}

async fn read_more(socket: &mut TcpStream, into: &mut Vec<u8>) -> io::Result<()> {
    match socket.read_buf(into).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}
