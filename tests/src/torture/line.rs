use std::{io, net::SocketAddr};

use serde::Deserialize;

use crate::{
    events::{Event, EventStream},
    socket::{Frame, Refusal, Socket},
};

/// What a client hears: frames of a WebSocket, or events, which say the same.
#[derive(Debug)]
pub enum Line {
    /// A WebSocket.
    Socket(Socket),
    /// A stream of events, and what was heard last.
    Events(EventStream, String),
}

/// What the `close` of a stream of events says.
#[derive(Debug, Deserialize)]
struct Goodbye {
    code: String,
}

impl Goodbye {
    /// As the close frame of a WebSocket has it; of what does not happen here, one for everything else.
    fn code(&self) -> u16 {
        match self.code.as_str() {
            "restart" => 1012,
            "try_again_later" => 1013,
            _ => 1002,
        }
    }
}

impl Line {
    /// Opens a stream of events, as an `EventSource` does that comes back.
    pub async fn events(address: SocketAddr, path: &str, last_event_id: Option<String>) -> Result<Self, Refusal> {
        let headers = last_event_id.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        Ok(Self::Events(EventStream::open(address, path, &headers).await?, String::new()))
    }

    /// The next frame, or the message of the next event.
    pub async fn next(&mut self) -> io::Result<Frame<'_>> {
        match self {
            Self::Socket(socket) => socket.next().await,
            Self::Events(stream, heard) => {
                let event = stream.next().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
                if event.comment || event.retry.is_some() {
                    return Ok(Frame::Ping);
                }
                let name = event.name.clone();
                *heard = message(event);
                match serde_json::from_str::<Goodbye>(heard) {
                    Ok(goodbye) if name.as_deref() == Some("close") => Ok(Frame::Close(goodbye.code(), heard)),
                    _ => Ok(Frame::Text(heard)),
                }
            }
        }
    }

    /// Asks for a sign of life, if it can be asked for.
    pub async fn ping(&mut self) -> io::Result<()> {
        match self {
            Self::Socket(socket) => socket.send(r#"{"type":"ping"}"#).await,
            Self::Events(..) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Says goodbye as a browser does. Who reads events just leaves.
    pub async fn leave(&mut self) -> io::Result<()> {
        match self {
            Self::Socket(socket) => socket.send_raw(&[0x88, 0x80, 0, 0, 0, 0]).await,
            Self::Events(..) => Ok(()),
        }
    }
}

/// The path of a stream of events of some topics.
pub fn events_of(topics: &[&str]) -> String {
    let escaped = |byte: u8| match byte.is_ascii_alphanumeric() {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    let of_each = |topic: &&str| format!("&topic={}", topic.bytes().map(escaped).collect::<String>());
    format!("/sse?watermark_ms=5000{}", topics.iter().map(of_each).collect::<String>())
}

/// The message of an event. Its name must be the message's type, and its id the message's cursor, for that is what
/// a browser goes on from; if they are not, it is no message.
fn message(event: Event) -> String {
    let kind = match event.name.as_deref() {
        None => "change",
        Some("refused") => "error",
        Some(name) => name,
    };
    let begins = event.data.starts_with(&format!(r#"{{"type":"{kind}""#));
    let is_at = |id: &String| event.data.contains(&format!(r#""cursor":"{id}""#));
    let is_told = match &event.id {
        Some(id) => is_at(id),
        None => !event.data.contains(r#","cursor":""#),
    };
    if begins && is_told { event.data } else { format!("not an event of its message: {event:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: Option<&str>, name: Option<&str>, data: &str) -> Event {
        let own = |text: &str| text.to_owned();
        Event { id: id.map(own), name: name.map(own), data: data.into(), ..Event::default() }
    }

    #[test]
    fn a_message_is_named_and_numbered_by_its_event() {
        let change = r#"{"type":"change","cursor":"f.7","data":{}}"#;
        assert_eq!(message(event(Some("f.7"), None, change)), change);
        for wrong in [
            event(Some("f.8"), None, change),
            event(None, None, change),
            event(Some("f.7"), Some("reset"), change),
            event(Some("f.7"), None, r#"{"type":"reset","cursor":"f.7"}"#),
        ] {
            assert!(message(wrong.clone()).starts_with("not an event"), "{wrong:?}");
        }
        let refused = r#"{"type":"error","code":"not_ready"}"#;
        assert_eq!(message(event(None, Some("refused"), refused)), refused);
    }
}
