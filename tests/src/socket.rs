use std::{io, net::SocketAddr, ops::Range};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Any key will do: what the server answers to it is tested elsewhere.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A WebSocket of a client, with as little between the test and the wire as can be: frames are
/// looked at where they were read, so that a test can have thousands of these.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// What of the buffer has been read and not yet taken.
    filled: Range<usize>,
}

/// A frame from a server, which is never masked and, from ours, never in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Text.
    Text(&'a str),
    /// A ping; [`Socket::next`] has answered it.
    Ping,
    /// A pong.
    Pong,
    /// The end, with code and reason.
    Close(u16, &'a str),
}

/// Why there is no WebSocket.
#[derive(Debug)]
pub enum Refusal {
    /// The server said no: status and the rest of its answer.
    Http(u16, String),
    /// There was no answer.
    Io(io::Error),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Http(status, answer) => write!(f, "refused with {status}: {answer}"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Socket {
    /// Opens one.
    pub async fn open(address: SocketAddr, path: &str) -> Result<Self, Refusal> {
        Self::open_with(address, path, "").await
    }

    /// Opens one with more header lines: `"Origin: http://a.example\r\n"`.
    pub async fn open_with(address: SocketAddr, path: &str, headers: &str) -> Result<Self, Refusal> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{headers}\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut socket = Self { stream, buffer: vec![0; 4096], filled: 0..0 };
        let end = loop {
            let read = &socket.buffer[socket.filled.clone()];
            if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            socket.read_more().await?;
        };
        let head = String::from_utf8_lossy(&socket.buffer[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        if status == 101 {
            socket.filled.start = end;
            return Ok(socket);
        }
        let length = head.to_ascii_lowercase().split_once("content-length: ").and_then(|(_, rest)| {
            let number = rest.lines().next()?;
            number.trim().parse::<usize>().ok()
        });
        while socket.filled.len() < end + length.unwrap_or(0) {
            socket.read_more().await?;
        }
        Err(Refusal::Http(status, String::from_utf8_lossy(&socket.buffer[socket.filled.clone()]).into_owned()))
    }

    /// The next frame. An end without a close frame is an error.
    pub async fn next(&mut self) -> io::Result<Frame<'_>> {
        loop {
            if let Some((opcode, payload)) = self.whole_frame()? {
                match opcode {
                    1 => return Ok(Frame::Text(self.text(payload)?)),
                    8 if payload.len() < 2 => return Ok(Frame::Close(1005, "")),
                    8 => {
                        let code = u16::from_be_bytes([self.buffer[payload.start], self.buffer[payload.start + 1]]);
                        return Ok(Frame::Close(code, self.text(payload.start + 2..payload.end)?));
                    }
                    9 => {
                        let payload = self.buffer[payload].to_vec();
                        self.write(0x8a, &payload).await?;
                        return Ok(Frame::Ping);
                    }
                    10 => return Ok(Frame::Pong),
                    other => return Err(io::Error::other(format!("a frame with opcode {other}"))),
                }
            }
            self.read_more().await?;
        }
    }

    /// Sends a text frame.
    pub async fn send(&mut self, text: &str) -> io::Result<()> {
        self.write(0x81, text.as_bytes()).await
    }

    /// Sends bytes as they are.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    async fn write(&mut self, first: u8, payload: &[u8]) -> io::Result<()> {
        // Masked, as a client must, with zeros, which leave the payload as it is.
        let mut frame = vec![first];
        match payload.len() {
            short @ 0..=125 => frame.push(0x80 | short as u8),
            medium @ 126..=0xffff => {
                frame.push(0x80 | 126);
                frame.extend((medium as u16).to_be_bytes());
            }
            long => {
                frame.push(0x80 | 127);
                frame.extend((long as u64).to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(payload);
        self.stream.write_all(&frame).await
    }

    fn text(&self, payload: Range<usize>) -> io::Result<&str> {
        std::str::from_utf8(&self.buffer[payload]).map_err(|e| io::Error::other(format!("not UTF-8: {e}")))
    }

    /// Takes a frame off the buffer if it is there as a whole: its opcode, and where its payload is.
    fn whole_frame(&mut self) -> io::Result<Option<(u8, Range<usize>)>> {
        let read = &self.buffer[self.filled.clone()];
        let [first, second, ..] = *read else { return Ok(None) };
        if first & 0xf0 != 0x80 || second & 0x80 != 0 {
            return Err(io::Error::other(format!("a frame that begins with {first:#x} {second:#x}")));
        }
        let (head, length) = match (second, read) {
            (126, [_, _, a, b, ..]) => (4, usize::from(u16::from_be_bytes([*a, *b]))),
            (127, [_, _, rest @ ..]) if rest.len() >= 8 => {
                let bytes: [u8; 8] = rest[..8].try_into().map_err(io::Error::other)?;
                (10, usize::try_from(u64::from_be_bytes(bytes)).map_err(io::Error::other)?)
            }
            (126 | 127, _) => return Ok(None),
            (length, _) => (2, usize::from(length)),
        };
        if read.len() < head + length {
            return Ok(None);
        }
        let start = self.filled.start + head;
        self.filled.start = start + length;
        Ok(Some((first & 0x0f, start..start + length)))
    }

    async fn read_more(&mut self) -> io::Result<()> {
        if self.filled.start > 0 {
            self.buffer.copy_within(self.filled.clone(), 0);
            self.filled = 0..self.filled.len();
        }
        if self.filled.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        let count = self.stream.read(&mut self.buffer[self.filled.end..]).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.filled.end += count;
        Ok(())
    }
}
