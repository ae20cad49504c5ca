//! The life of a connection: it says hello, reads what the client sends until either side leaves,
//! and takes everything of it along.

mod realtime;

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    num::NonZeroU32,
    pin::pin,
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use protocol::{
    Close, Cursor, ErrorCode, Source,
    message::{self, ClientMessage, Refused, Subscribe},
};
use tokio::net::TcpStream;
use tracing::debug;

use crate::{
    access::{Access, Claims},
    door::Door,
    hub::{Caller, ConnKey, Expiry, HubHandle, Refusal, Speech, WATERMARK},
    limits::{MessageRate, Permit},
    metrics::Metrics,
    realtime::{Message, Outbound, Tokens},
    socket::hung_up,
    ws::{self, Decoder, Incoming, Violation},
};

/// How long a client that came without a token has to show one.
const TOKEN_GRACE: Duration = Duration::from_secs(10);

/// How long a client of Supabase may be without a channel that has no token: it is refused what it joins, and tries again.
const JOIN_GRACE: Duration = Duration::from_secs(60);

/// How long one that came with a token may, or where none is needed. As at Supabase's own server: its client leaves 50 s after
/// its last channel, but for those that the application keeps open, which come back by themselves.
const IDLE_GRACE: Duration = Duration::from_secs(10 * 60);

/// A client that goes on sending this many times what it may is closed.
const PATIENCE: u32 = 20;

/// A client whose request was accepted and answered with 101.
pub struct Newcomer {
    /// The socket, when hyper lets go of it.
    pub upgrade: OnUpgrade,
    /// What it came for.
    pub door: Door,
    /// What it may do; `None` if it has yet to show a token.
    pub claims: Option<Claims>,
    /// Its place among the connections that are allowed.
    pub permit: Permit,
    /// Whose it is.
    pub caller: Caller,
}

/// What the sessions of a shard share.
pub struct Sessions {
    /// The shard's hub.
    pub hub: HubHandle,
    /// Who is let in.
    pub access: Access,
    /// What is counted.
    pub metrics: Metrics,
    /// Where messages between clients go.
    pub outbound: Outbound,
    /// The name of this gateway.
    pub name: Rc<str>,
    /// Bytes of one message.
    pub max_frame_bytes: u32,
    /// Messages a second.
    pub max_messages_per_s: NonZeroU32,
    /// Where sockets are read into: one buffer a shard, because a read is decoded at once.
    pub scratch: RefCell<Vec<u8>>,
}

/// One connection. Ten thousands of them wait at a time, so what is needed seldom is made when it is
/// needed: the futures in boxes are those that an idle session does without.
struct Session {
    shared: Rc<Sessions>,
    socket: Rc<TcpStream>,
    key: ConnKey,
    door: Door,
    claims: Option<Claims>,
    decoder: Decoder,
    rate: MessageRate,
    excess: u32,
    tokens: Tokens,
    _permit: Permit,
}

/// What came with one read.
struct Read {
    messages: Vec<Incoming>,
    decoded: Result<(), Violation>,
}

impl Sessions {
    /// Serves a newcomer until it leaves. `since` is how far the feeds were when it was let in.
    pub fn serve(self: Rc<Self>, newcomer: Newcomer, since: Vec<(Source, Cursor)>) -> impl Future<Output = ()> {
        let connecting = Box::pin(self.connect(newcomer, since));
        async move {
            let Some((mut session, first)) = connecting.await else { return };
            let (shared, key) = (Rc::clone(&session.shared), session.key);
            {
                let reading = pin!(session.read(first));
                shared.hub.writing_for(key, reading).await;
            }
            session.leave();
        }
    }

    async fn connect(self: Rc<Self>, newcomer: Newcomer, since: Vec<(Source, Cursor)>) -> Option<(Session, Box<Read>)> {
        let Newcomer { upgrade, door, claims, permit, caller } = newcomer;
        let parts = match upgrade.await.map(|upgraded| upgraded.downcast::<TokioIo<TcpStream>>()) {
            Ok(Ok(parts)) => parts,
            Ok(Err(_)) => {
                debug!("an upgrade of something that is no TCP socket");
                return None;
            }
            Err(error) => {
                debug!(%error, "the client left during the upgrade");
                return None;
            }
        };
        let socket = Rc::new(parts.io.into_inner());
        self.metrics.opened(door.name());
        let speech = match door {
            Door::Realtime { vsn, .. } => Speech::Realtime(vsn),
            Door::Native | Door::Plain { .. } => Speech::WebSocket,
        };
        let key = self.hub.with(|hub| {
            let key = hub.join(Rc::clone(&socket), speech);
            hub.introduce(key, caller, door.name(), claims.as_ref());
            key
        });
        let (decoder, rate) = (Decoder::new(self.max_frame_bytes), MessageRate::new(Instant::now()));
        let tokens = Tokens::default();
        let mut session =
            Session { shared: self, socket, key, door, claims, decoder, rate, excess: 0, tokens, _permit: permit };
        session.begin(&since);
        // Not kept: it is hyper's whole read buffer, 8 KiB.
        let first = Box::new(session.decode(&parts.read_buf));
        Some((session, first))
    }
}

impl Session {
    fn leave(self) {
        self.shared.hub.with(|hub| hub.leave(self.key));
        self.shared.metrics.left(self.door.name());
    }

    fn begin(&mut self, since: &[(Source, Cursor)]) {
        self.shared.hub.with(|hub| match &self.door {
            Door::Native => {
                hub.send_text(self.key, &message::hello(&self.shared.name, env!("CARGO_PKG_VERSION")));
                hub.want_watermarks(self.key, WATERMARK);
            }
            Door::Realtime { .. } => hub.want_watermarks(self.key, WATERMARK),
            Door::Plain { topics, wrap } => hub.subscribe_plain(self.key, topics, *wrap, since),
        });
        self.set_expiry();
    }

    fn set_expiry(&self) {
        if matches!(self.door, Door::Realtime { .. }) {
            let (span, why) = match &self.claims {
                Some(_) => (IDLE_GRACE, Expiry::Idle),
                None => (JOIN_GRACE, Expiry::NoChannel),
            };
            return self.shared.hub.with(|hub| hub.unjoined_for(self.key, span, why));
        }
        let expires = match &self.claims {
            None => Some((TOKEN_GRACE, Expiry::NoToken)),
            Some(claims) => expiry(claims),
        };
        self.shared.hub.with(|hub| hub.expire_in(self.key, expires));
    }

    /// Reads until the connection ends. Nothing is held while nothing comes.
    async fn read(&mut self, first: Box<Read>) {
        if !Box::pin(self.act_on(*first)).await {
            return;
        }
        loop {
            if self.shared.hub.with(|hub| hub.is_not_read(self.key)) && !Box::pin(self.until_it_reads()).await {
                return;
            }
            // Not `readable`, whose future holds what only several readers would need.
            if poll_fn(|cx| self.socket.poll_read_ready(cx)).await.is_err() {
                return;
            }
            let Ok(read) = self.read_once() else { return };
            self.shared.hub.with(|hub| hub.heard(self.key));
            if !Box::pin(self.act_on(read)).await {
                return;
            }
        }
    }

    /// What has come; an error at the end of the connection.
    fn read_once(&mut self) -> io::Result<Read> {
        let shared = Rc::clone(&self.shared);
        let mut scratch = shared.scratch.borrow_mut();
        match self.socket.try_read(&mut scratch) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => Ok(self.decode(&scratch[..count])),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(self.decode(&[])),
            Err(e) => Err(e),
        }
    }

    fn decode(&mut self, bytes: &[u8]) -> Read {
        let mut messages = Vec::new();
        let decoded = self.decoder.read(bytes, &mut messages);
        Read { messages, decoded }
    }

    /// Whether the connection goes on.
    async fn act_on(&mut self, read: Read) -> bool {
        for message in read.messages {
            if !self.take(message).await {
                self.linger().await;
                return false;
            }
        }
        if let Err(Violation(close, reason)) = read.decoded {
            self.shared.hub.with(|hub| hub.close(self.key, close, reason));
            self.linger().await;
            return false;
        }
        true
    }

    /// Waits while the client does not read what waits for it; whether it is still there then.
    async fn until_it_reads(&self) -> bool {
        tokio::select! {
            biased;
            () = self.shared.hub.until_it_reads(self.key) => true,
            () = hung_up(&self.socket) => false,
        }
    }

    /// After the last message that counts: reads on until the connection ends, so that the client
    /// can read what was sent. (To close with something unread would take it from it.) The hub ends
    /// it when the goodbyes are said, or when that takes too long.
    async fn linger(&self) {
        self.shared.hub.with(|hub| hub.hang_up(self.key));
        loop {
            if self.socket.readable().await.is_err() {
                return;
            }
            let mut scratch = self.shared.scratch.borrow_mut();
            match self.socket.try_read(&mut scratch) {
                Ok(0) => return,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    /// Acts on what the client sent; whether the connection goes on.
    async fn take(&mut self, incoming: Incoming) -> bool {
        if incoming == Incoming::Close {
            self.shared.hub.with(|hub| hub.said_goodbye(self.key));
            return false;
        }
        let message = self.message_of(&incoming);
        if !self.is_free(message.as_ref()) && !self.rate.allow(Instant::now(), self.shared.max_messages_per_s) {
            return self.too_many(&incoming, message);
        }
        self.excess = self.excess.saturating_sub(1);
        match incoming {
            Incoming::Ping(payload) => self.shared.hub.with(|hub| hub.send(self.key, ws::pong(&payload))),
            // Plain endpoints are one-way: what their front ends send is nobody's concern.
            Incoming::Text(text) if matches!(self.door, Door::Native) => self.take_message(&text).await,
            Incoming::Binary(_) if matches!(self.door, Door::Native) => {
                let reason = "this protocol is JSON in text frames";
                self.shared.hub.with(|hub| hub.close(self.key, Close::Unsupported, reason));
                return false;
            }
            Incoming::Text(_) | Incoming::Binary(_) | Incoming::Pong | Incoming::Close => {
                if let Some((mut talk, message)) = self.talk().zip(message) {
                    talk.act_on(message).await;
                }
            }
        }
        true
    }

    fn too_many(&mut self, incoming: &Incoming, message: Option<Result<Message, String>>) -> bool {
        self.excess += 1;
        let most = self.shared.max_messages_per_s;
        if self.excess > most.get().saturating_mul(PATIENCE) {
            let reason = format!("more than {most} messages a second");
            self.shared.hub.with(|hub| hub.close(self.key, Close::RateLimited, &reason));
            return false;
        }
        if let (Some(talk), Some(Ok(message))) = (self.talk(), message) {
            talk.too_many(&message, most);
        }
        if let (Door::Native, Incoming::Text(text)) = (&self.door, incoming) {
            let id = match ClientMessage::parse(text) {
                Ok(ClientMessage::Subscribe(Subscribe { id, .. })) => id,
                Ok(ClientMessage::Unsubscribe { id }) => Some(id),
                Ok(_) => None,
                Err(refused) => refused.id,
            };
            let message = format!("more than {most} messages a second; this one was not acted on, send it again later");
            self.refuse(Refused { id, code: ErrorCode::RateLimited, message });
        }
        true
    }

    async fn take_message(&mut self, text: &str) {
        let refused = match ClientMessage::parse(text) {
            Ok(ClientMessage::Ping) => {
                self.shared.hub.with(|hub| hub.send_text(self.key, message::PONG));
                return;
            }
            Ok(ClientMessage::Subscribe(subscribe)) => self.subscribe(subscribe),
            Ok(ClientMessage::Unsubscribe { id }) => self.unsubscribe(id),
            Ok(ClientMessage::Auth { token }) => self.auth(&token).await,
            Err(refused) => Err(refused),
        };
        if let Err(refused) = refused {
            self.refuse(refused);
        }
    }

    fn refuse(&self, refused: Refused) {
        self.shared.metrics.error(refused.code);
        let text = message::error(refused.id.as_deref(), refused.code, &refused.message);
        self.shared.hub.with(|hub| hub.send_text(self.key, &text));
    }

    fn subscribe(&self, wanted: Subscribe) -> Result<(), Refused> {
        let id = wanted.id.clone();
        let refused = |code, message| Refused { id: id.clone(), code, message };
        let Some(claims) = &self.claims else {
            let message = "send {\"type\":\"auth\",\"token\":…} first, or connect with a token";
            return Err(refused(ErrorCode::Unauthorized, message.into()));
        };
        if let Some(topic) = wanted.topics.iter().find(|topic| !claims.may_subscribe(topic.as_str())) {
            return Err(refused(ErrorCode::Forbidden, format!("the token's claim 'topics' does not cover '{topic}'")));
        }
        self.shared
            .hub
            .with(|hub| hub.subscribe(self.key, wanted, |topic| claims.may_subscribe(topic)))
            .map_err(|Refusal(code, message)| refused(code, message))
    }

    fn unsubscribe(&self, id: String) -> Result<(), Refused> {
        self.shared.hub.with(|hub| {
            if !hub.unsubscribe(self.key, &id) {
                let message = format!("there is no subscription '{id}' on this connection");
                return Err(Refused { id: Some(id), code: ErrorCode::UnknownId, message });
            }
            hub.send_text(self.key, &message::unsubscribed(&id));
            Ok(())
        })
    }

    async fn auth(&mut self, token: &str) -> Result<(), Refused> {
        let claims = self.shared.access.verify(token).await.map_err(|denied| Refused {
            id: None,
            code: denied.code,
            message: denied.message,
        })?;
        self.shared.hub.with(|hub| {
            hub.note_claims(self.key, &claims);
            hub.recheck(self.key, |topic| claims.may_subscribe(topic));
            hub.send_text(self.key, message::AUTHENTICATED);
        });
        self.claims = Some(claims);
        self.set_expiry();
        Ok(())
    }
}

/// When a connection with these claims must end, and why.
pub(crate) fn expiry(claims: &Claims) -> Option<(Duration, Expiry)> {
    let left = claims.expires_at()?.duration_since(SystemTime::now()).unwrap_or_default();
    Some((left, Expiry::Token))
}
