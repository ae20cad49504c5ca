use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{task::JoinHandle, time::sleep};

use crate::{
    ledger::Ledger,
    numbered::{PATH, TOPIC},
    socket::{Frame, Refusal, Socket},
};

/// Before the next try of a client whose connection ended.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// A dashboard that follows what a [`crate::writer::Writer`] writes, and keeps a [`Ledger`]. It
/// leaves with the handle.
#[derive(Debug)]
pub struct Client {
    ledger: Arc<Mutex<Ledger>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Native,
    Plain,
}

impl Client {
    /// Subscribes over the native protocol; changes follow. When its connection ends it comes back,
    /// and resumes.
    pub async fn native(address: SocketAddr) -> Result<Self, Refusal> {
        Self::start(Door::Native, address).await
    }

    /// Connects to the recipe's own path. When its connection ends it has failed: nobody can tell
    /// it what it missed.
    pub async fn plain(address: SocketAddr) -> Result<Self, Refusal> {
        Self::start(Door::Plain, address).await
    }

    async fn start(door: Door, address: SocketAddr) -> Result<Self, Refusal> {
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let mut socket = connect(door, address, &ledger).await?;
        while door == Door::Native && seen(&ledger, |ledger| ledger.cursor().is_none()) {
            take(door, &mut socket, &ledger).await?;
        }
        let task = tokio::spawn(live(door, address, socket, Arc::clone(&ledger)));
        Ok(Self { ledger, task })
    }

    /// What it has seen so far.
    pub fn seen(&self) -> Ledger {
        seen(&self.ledger, |ledger| ledger.clone())
    }

    /// The number of the last change that it has seen.
    pub fn last(&self) -> u64 {
        seen(&self.ledger, |ledger| ledger.last)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn live(door: Door, address: SocketAddr, mut socket: Socket, ledger: Arc<Mutex<Ledger>>) {
    loop {
        let error = loop {
            if let Err(error) = take(door, &mut socket, &ledger).await {
                break error;
            }
        };
        if door == Door::Plain {
            return seen(&ledger, |ledger| ledger.wrong(format!("the connection ended: {error}")));
        }
        socket = loop {
            // A gateway that is not ready, or nginx without one, says so: it is asked again.
            match connect(door, address, &ledger).await {
                Ok(socket) => break socket,
                Err(_) => sleep(RETRY_AFTER).await,
            }
        };
    }
}

async fn connect(door: Door, address: SocketAddr, ledger: &Mutex<Ledger>) -> Result<Socket, Refusal> {
    let mut socket = Socket::open(address, if door == Door::Native { "/rowcast" } else { PATH }).await?;
    if door == Door::Native {
        let since = seen(ledger, |ledger| ledger.cursor());
        let since = since.map(|cursor| format!(r#","since":"{cursor}""#)).unwrap_or_default();
        let watermark = r#""watermark":{"every_ms":5000}"#;
        socket.send(&format!(r#"{{"type":"subscribe","id":"a","topics":["{TOPIC}"],{watermark}{since}}}"#)).await?;
    }
    seen(ledger, |ledger| ledger.connections += 1);
    Ok(socket)
}

/// Takes one frame in.
async fn take(door: Door, socket: &mut Socket, ledger: &Mutex<Ledger>) -> io::Result<()> {
    match socket.next().await? {
        Frame::Text(text) => seen(ledger, |ledger| match door {
            Door::Native => ledger.native(text),
            Door::Plain => ledger.plain(text),
        }),
        Frame::Close(code, reason) => return Err(io::Error::other(format!("closed with {code} {reason}"))),
        Frame::Ping | Frame::Pong => {}
    }
    Ok(())
}

fn seen<T>(ledger: &Mutex<Ledger>, look: impl FnOnce(&mut Ledger) -> T) -> T {
    look(&mut ledger.lock().unwrap_or_else(PoisonError::into_inner))
}
