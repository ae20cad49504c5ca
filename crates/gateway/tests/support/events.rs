//! A client of `/sse` that reads raw bytes.

use std::net::SocketAddr;

pub use e2e::events::Event;
use e2e::socket::Refusal;
use tokio::{net::TcpStream, time::timeout};

use super::{PATIENCE, TestGateway};

/// A response that goes on.
pub struct EventStream {
    pub head: String,
    inner: e2e::events::EventStream,
}

impl EventStream {
    /// Asks; what is not 200 comes as an error, with the whole answer.
    pub async fn try_open(address: SocketAddr, path: &str, headers: &str) -> Result<Self, (u16, String)> {
        let opened = timeout(PATIENCE, e2e::events::EventStream::open(address, path, headers)).await;
        match opened.expect("an answer in time") {
            Ok(inner) => Ok(Self { head: inner.head.clone(), inner }),
            Err(Refusal::Http(status, answer)) => Err((status, answer)),
            Err(Refusal::Io(error)) => panic!("no answer: {error}"),
        }
    }

    pub async fn open(gateway: &TestGateway, path: &str) -> Self {
        Self::try_open(gateway.address, path, "").await.unwrap_or_else(|e| panic!("{e:?}"))
    }

    pub async fn resume(gateway: &TestGateway, path: &str, last_event_id: &str) -> Self {
        let header = format!("Last-Event-ID: {last_event_id}\r\n");
        Self::try_open(gateway.address, path, &header).await.unwrap_or_else(|e| panic!("{e:?}"))
    }

    pub fn socket(&mut self) -> &mut TcpStream {
        &mut self.inner.socket
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

    /// Whatever comes next; `None` at the end, of the response or of the connection.
    pub async fn any(&mut self) -> Option<Event> {
        let event = timeout(PATIENCE, self.inner.next()).await.expect("an event in time");
        event.ok().flatten()
    }
}
