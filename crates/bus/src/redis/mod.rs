//! The bus over Redis.
//!
//! A source's state is a head (a hash) and a history a topic (streams); [`keys`] names them. Two
//! scripts change them, each in one step: `begin.lua` and `publish.lua`; `history.lua` reads. Commands go through
//! redis-rs on a [`link`]; subscribers use fred. Either would lose messages silently as it comes;
//! where that is avoided, a comment says how.
//!
//! The head never expires, the histories do. So set `maxmemory-policy` to `noeviction` or to one of
//! the `volatile-*`: with an `allkeys-*` one the head may go too, which the listener mends, but not
//! for free. Whatever goes, nobody is told that a history is complete when it is not.

use std::{fmt, sync::Arc, time::Duration};

use protocol::Source;

use crate::{Broadcaster, Broadcasts, BusError, Publisher, Reader, Retention, Subscription, subscription::Inner};

mod address;
mod broadcast;
mod keys;
mod link;
mod publisher;
mod queue;
mod reader;
mod subscriber;

use address::Address;
use keys::Keys;
use link::{Link, Losses};
use publisher::Scripts;
use subscriber::Subscriber;

pub use broadcast::{RedisBroadcaster, RedisBroadcasts};
pub use publisher::RedisPublisher;
pub use reader::RedisReader;
pub(crate) use subscriber::RedisSubscription;

/// Until then a connection is up and ready, TLS and AUTH included, or it is given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Histories are kept ten years at most, so that no sum with a clock overflows.
const LONGEST_RETENTION_MS: u64 = 10 * 365 * 24 * 3600 * 1000;

/// Where Redis is, and what is kept there.
#[derive(Clone)]
pub struct RedisSettings {
    /// `redis://`, `rediss://` or `unix://` URL, with password and database number if need be.
    pub url: String,
    /// Prefix of all keys and channels.
    pub namespace: String,
    /// What each topic's history keeps.
    pub retention: Retention,
}

/// Without the URL, which may hold a password.
impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url: _, namespace, retention } = self;
        f.debug_struct("RedisSettings")
            .field("namespace", namespace)
            .field("retention", retention)
            .finish_non_exhaustive()
    }
}

/// The bus over Redis. Cheap to clone.
#[derive(Clone)]
pub struct RedisBus {
    shared: Arc<Shared>,
}

struct Shared {
    address: Address,
    losses: Losses,
    namespace: String,
    retention: Retention,
    scripts: Arc<Scripts>,
}

impl RedisBus {
    /// Checks the settings; connects to nothing yet.
    pub fn new(settings: RedisSettings) -> Result<Self, BusError> {
        let RedisSettings { url, namespace, mut retention } = settings;
        if namespace.is_empty() || namespace.contains(['{', '}']) {
            return Err(BusError::Refused(format!("'{namespace}' is no namespace: it is empty or has braces")));
        }
        retention.ms = retention.ms.min(LONGEST_RETENTION_MS);
        let address = Address::parse(&url)?;
        Ok(Self {
            shared: Arc::new(Shared {
                address,
                losses: Losses::default(),
                namespace,
                retention,
                scripts: Arc::new(Scripts::new()),
            }),
        })
    }

    /// A listener's end. It connects at the first call and again whenever it has to.
    pub fn publisher(&self, source: Source) -> Publisher {
        let Shared { address, losses, retention, scripts, .. } = &*self.shared;
        Publisher::Redis(RedisPublisher {
            link: Link::new(address.clone(), losses.clone(), source.as_str(), "publisher"),
            keys: self.keys(source),
            retention: *retention,
            scripts: scripts.clone(),
        })
    }

    /// A gateway's commands. Clones share a connection, which is made at the first call and again
    /// whenever it has to.
    pub fn reader(&self, source: Source) -> Reader {
        let Shared { address, losses, scripts, .. } = &*self.shared;
        let link = Link::new(address.clone(), losses.clone(), source.as_str(), "reader");
        Reader::Redis(RedisReader { link, keys: self.keys(source), scripts: scripts.clone() })
    }

    /// A gateway's end of the channel; it connects in a task of its own that ends with it. To be
    /// called within a tokio runtime.
    pub fn subscribe(&self, source: Source) -> Subscription {
        let Shared { address, losses, .. } = &*self.shared;
        let channel = self.keys(source).channel();
        let subscriber = Subscriber::new(address.clone(), losses.clone(), source.as_str(), channel);
        Subscription::new(Inner::Redis(RedisSubscription(subscriber)))
    }

    /// Where messages between clients are sent. It connects at the first call.
    pub fn broadcaster(&self) -> Broadcaster {
        let link = Link::new(self.shared.address.clone(), Losses::default(), "broadcast", "publisher");
        Broadcaster::Redis(RedisBroadcaster { link, channel: self.broadcast_channel() })
    }

    /// Where they arrive. To be called within a tokio runtime.
    pub fn broadcasts(&self) -> Broadcasts {
        // Losses of its own: what becomes of this connection is no reason to renew those of the feeds.
        let (address, losses) = (self.shared.address.clone(), Losses::default());
        let subscriber = Subscriber::new(address, losses, "broadcast", self.broadcast_channel());
        Broadcasts::Redis(RedisBroadcasts { subscriber })
    }

    fn broadcast_channel(&self) -> String {
        format!("{}:broadcast", self.shared.namespace)
    }

    fn keys(&self, source: Source) -> Keys {
        Keys::new(&self.shared.namespace, source)
    }
}

impl fmt::Debug for RedisBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBus").field("namespace", &self.shared.namespace).finish_non_exhaustive()
    }
}
