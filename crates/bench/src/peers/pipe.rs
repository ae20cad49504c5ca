use std::net::SocketAddr;

use anyhow::{Context, bail, ensure};
use memchr::memmem;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
};

use crate::peers::peer::{CHANNEL, Way};

/// A connection on which changes are published. It does not wait for an answer before the next one,
/// so that nobody's round trip is part of a figure; but a refusal ends it.
pub struct Pipe {
    way: Way,
    host: SocketAddr,
    stream: OwnedWriteHalf,
    answers: JoinHandle<anyhow::Result<()>>,
}

impl Pipe {
    /// To the peer itself, or to Redis.
    pub async fn open(way: Way, host: SocketAddr) -> anyhow::Result<Self> {
        let (stream, answers) = connect(way, host).await?;
        Ok(Self { way, host, stream, answers })
    }

    /// Publishes one change.
    pub async fn publish(&mut self, payload: &str) -> anyhow::Result<()> {
        if let Way::PostOnce(_) = self.way {
            // The one before has been answered by now, or its change is missing.
            let (stream, answers) = connect(self.way, self.host).await?;
            self.stream = stream;
            let before = std::mem::replace(&mut self.answers, answers);
            if before.is_finished() {
                before.await??;
            }
        } else if self.answers.is_finished() {
            (&mut self.answers).await??;
        }
        let bytes = match self.way {
            Way::Redis => {
                format!("*3\r\n$7\r\nPUBLISH\r\n${}\r\n{CHANNEL}\r\n${}\r\n{payload}\r\n", CHANNEL.len(), payload.len())
            }
            Way::Post(post) | Way::PostOnce(post) => {
                let post = post(payload);
                format!(
                    "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}",
                    post.path,
                    self.host,
                    post.body.len(),
                    post.body
                )
            }
        };
        Ok(self.stream.write_all(bytes.as_bytes()).await?)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.answers.abort();
    }
}

async fn connect(way: Way, host: SocketAddr) -> anyhow::Result<(OwnedWriteHalf, JoinHandle<anyhow::Result<()>>)> {
    let stream = TcpStream::connect(host).await.with_context(|| format!("no connection to {host}"))?;
    stream.set_nodelay(true)?;
    let (answers, stream) = stream.into_split();
    Ok((stream, tokio::spawn(read(answers, matches!(way, Way::PostOnce(_))))))
}

/// Reads answers until one is a refusal, or no more come, which only those that come `once` may do.
async fn read(mut stream: OwnedReadHalf, once: bool) -> anyhow::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 && once {
            return Ok(());
        }
        ensure!(count > 0, "what publishes was cut off");
        if is_refusal(&buffer[..count]) {
            bail!("a change was refused: {}", String::from_utf8_lossy(&buffer[..count]));
        }
    }
}

/// An answer of HTTP that is no success, or none of Redis. One that comes in pieces may go unseen: its
/// change is missing then, and that shows.
fn is_refusal(answers: &[u8]) -> bool {
    let has = |text: &str| memmem::find(answers, text.as_bytes()).is_some();
    answers.starts_with(b"-") || has("HTTP/1.1 4") || has("HTTP/1.1 5") || has(r#""error":"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_from_an_answer() {
        assert!(!is_refusal(b":1\r\n"));
        assert!(is_refusal(b"-ERR unknown command\r\n"));
        assert!(!is_refusal(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}"));
        assert!(is_refusal(b"HTTP/1.1 403 Forbidden\r\n\r\n"));
        assert!(is_refusal(b"HTTP/1.1 200 OK\r\n\r\n{\"error\":{\"code\":102}}"));
    }
}
