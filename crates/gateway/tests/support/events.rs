//! A client of `/sse` that reads raw bytes.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{PATIENCE, TestGateway};

/// A response that goes on.
pub struct EventStream {
    pub head: String,
    pub socket: TcpStream,
    raw: Vec<u8>,
    text: String,
    /// Whether the response has come to its end.
    pub ended: bool,
}

/// An event, or a comment, or what stands alone.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Event {
    pub id: Option<String>,
    pub name: Option<String>,
    pub data: String,
    pub retry: Option<u64>,
    pub comment: bool,
}

impl Event {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// As the standard says.
    fn parse(block: &str) -> Self {
        let mut event = Self::default();
        let mut data = Vec::new();
        for line in block.lines() {
            match line.split_once(": ").unwrap_or((line, "")) {
                ("id", id) => event.id = Some(id.into()),
                ("event", name) => event.name = Some(name.into()),
                ("data", line) => data.push(line),
                ("retry", ms) => event.retry = Some(ms.parse().unwrap()),
                (":", _) => event.comment = true,
                other => panic!("no line of an event: {other:?}"),
            }
        }
        event.data = data.join("\n");
        event
    }
}

impl EventStream {
    /// Asks; what is not 200 comes as an error, with the whole answer.
    pub async fn try_open(address: SocketAddr, path: &str, headers: &str) -> Result<Self, (u16, String)> {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut raw = Vec::new();
        let end = loop {
            if let Some(end) = raw.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            let read = tokio::time::timeout(PATIENCE, socket.read_buf(&mut raw)).await.expect("a head in time");
            assert!(read.unwrap() > 0, "no head: {}", String::from_utf8_lossy(&raw));
        };
        let mut body = raw.split_off(end);
        let head = String::from_utf8(raw).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        if status != 200 {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
            while body.len() < length {
                assert!(socket.read_buf(&mut body).await.unwrap() > 0, "the answer is whole");
            }
            return Err((status, head + &String::from_utf8_lossy(&body)));
        }
        Ok(Self { head, socket, raw: body, text: String::new(), ended: false })
    }

    pub async fn open(gateway: &TestGateway, path: &str) -> Self {
        Self::try_open(gateway.address, path, "").await.unwrap_or_else(|e| panic!("{e:?}"))
    }

    pub async fn resume(gateway: &TestGateway, path: &str, last_event_id: &str) -> Self {
        let header = format!("Last-Event-ID: {last_event_id}\r\n");
        Self::try_open(gateway.address, path, &header).await.unwrap_or_else(|e| panic!("{e:?}"))
    }

    /// The next event that tells something; `None` at the end of the response.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let event = self.any().await?;
            if !event.comment && event.retry.is_none() {
                return Some(event);
            }
        }
    }

    /// The next event, whose name this is.
    pub async fn named(&mut self, name: &str) -> Event {
        let event = self.next().await.expect("the response goes on");
        assert_eq!(event.name.as_deref(), Some(name), "{event:?}");
        event
    }

    /// The next event, which is a change.
    pub async fn change(&mut self) -> Event {
        let event = self.next().await.expect("the response goes on");
        let json = event.json();
        assert_eq!((&event.name, json["type"].as_str()), (&None, Some("change")), "{event:?}");
        assert_eq!(event.id.as_deref(), json["cursor"].as_str(), "{event:?}");
        event
    }

    /// Whatever comes next.
    pub async fn any(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                return Some(Event::parse(block.trim_end_matches('\n')));
            }
            if self.take_chunk() {
                continue;
            }
            if self.ended {
                return None;
            }
            let read =
                tokio::time::timeout(PATIENCE, self.socket.read_buf(&mut self.raw)).await.expect("an event in time");
            self.ended = read.unwrap_or(0) == 0;
        }
    }

    /// Takes a chunk of what was read; whether there was one.
    fn take_chunk(&mut self) -> bool {
        let Some(line) = self.raw.windows(2).position(|bytes| bytes == b"\r\n") else { return false };
        let size = usize::from_str_radix(str::from_utf8(&self.raw[..line]).unwrap(), 16).unwrap();
        let end = line + 2 + size;
        if self.raw.len() < end + 2 {
            return false;
        }
        self.text.push_str(str::from_utf8(&self.raw[line + 2..end]).unwrap());
        self.raw.drain(..end + 2);
        self.ended |= size == 0;
        true
    }
}
