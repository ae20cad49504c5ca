//! The life of a client that gets events. To the hub it is a connection like any other: one end of a
//! pair of sockets. What comes out at the other end is the body of the response.
//!
//! So rings, catching up, limits and slow clients are the same for all, and HTTP/1.1 and HTTP/2 too. It
//! costs two more files and one more copy than a WebSocket. The kernel keeps a few KiB between the two,
//! hyper some more; past that the hub finds the socket full.

use std::{
    io,
    net::TcpStream as StdTcpStream,
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::body::{Body, Bytes, Frame};
use protocol::message::Subscribe;
use tokio::{
    net::{TcpStream, UnixStream},
    sync::oneshot,
};
use tracing::debug;

use super::event::retry;
use crate::{
    access::Claims,
    connection::HangUp,
    hub::{Caller, ConnKey, Refusal, Speech, WATERMARK},
    limits::Permit,
    session::{Sessions, expiry},
    shard::Counted,
    socket::hung_up,
};

/// Room between the hub and HTTP; the kernel allows twice as much, with what it needs itself.
const PAIR_BYTES: usize = 8 * 1024;

/// Most that is read of it at once.
const READ_BYTES: usize = 8 * 1024;

/// The last events have been handed over, and the client has so long to take them.
const LAST_EVENTS: Duration = Duration::from_secs(3);

/// A client that is to get events: the hub's end.
pub struct Follower {
    wanted: Subscribe,
    claims: Claims,
    caller: Caller,
    socket: StdTcpStream,
    /// Ends with the response, however that ends.
    response: oneshot::Receiver<()>,
    hang_up: Option<HangUp>,
    answer: oneshot::Sender<Result<(), Refusal>>,
}

/// Its end: the body of the response.
pub struct Events {
    socket: UnixStream,
    _response: oneshot::Sender<()>,
    _permit: Permit,
    _file: Counted,
}

/// Whether the hub takes it.
type Answered = oneshot::Receiver<Result<(), Refusal>>;

impl Follower {
    /// Both ends, and whether the hub takes it.
    pub fn new(
        wanted: Subscribe,
        claims: Claims,
        hang_up: Option<HangUp>,
        (permit, file): (Permit, Counted),
        caller: Caller,
    ) -> io::Result<(Self, Events, Answered)> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        socket2::SockRef::from(&ours).set_send_buffer_size(PAIR_BYTES)?;
        // The hub knows TCP sockets. It sends, asks whether there is room, and shuts down: any socket
        // that is a stream can do that.
        let socket = StdTcpStream::from(OwnedFd::from(ours));
        let ((ends, response), (answer, answered)) = (oneshot::channel(), oneshot::channel());
        let follower = Self { wanted, claims, caller, socket, response, hang_up, answer };
        let events = Events { socket: UnixStream::from_std(theirs)?, _response: ends, _permit: permit, _file: file };
        Ok((follower, events, answered))
    }
}

impl Sessions {
    /// Serves a client until its response has ended.
    pub async fn follow(self: Rc<Self>, follower: Follower) {
        let Follower { wanted, claims, caller, socket, response, hang_up, answer } = follower;
        let socket = match TcpStream::from_std(socket) {
            Ok(socket) => Rc::new(socket),
            Err(error) => return debug!(%error, "cannot serve events"),
        };
        let key = self.hub.with(|hub| {
            let key = hub.join(Rc::clone(&socket), Speech::Events);
            hub.introduce(key, caller, "sse", Some(&claims));
            key
        });
        let begun = self.begin_events(key, wanted, &claims);
        let refused = begun.is_err();
        // Who has left meanwhile has closed its end too.
        drop(answer.send(begun));
        if refused {
            return self.hub.with(|hub| hub.leave(key));
        }
        self.metrics.opened("sse");
        self.hub.writing_for(key, pin!(hung_up(&socket))).await;
        self.hub.with(|hub| hub.leave(key));
        self.metrics.left("sse");
        if tokio::time::timeout(LAST_EVENTS, response).await.is_err()
            && let Some(hang_up) = hang_up
        {
            hang_up.now();
        }
    }

    fn begin_events(&self, key: ConnKey, wanted: Subscribe, claims: &Claims) -> Result<(), Refusal> {
        self.hub.with(|hub| {
            // Should this gateway die, not all are to come back in the same moment.
            hub.send(key, retry(rand::random_range(500..=2000)));
            hub.want_watermarks(key, WATERMARK);
            hub.expire_in(key, expiry(claims));
            hub.subscribe(key, wanted, |topic| claims.may_subscribe(topic))
        })
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            ready!(self.socket.poll_read_ready(cx))?;
            let mut bytes = [0; READ_BYTES];
            match self.socket.try_read(&mut bytes) {
                Ok(0) => return Poll::Ready(None),
                Ok(count) => return Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(&bytes[..count]))))),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Some(Err(e))),
            }
        }
    }
}
