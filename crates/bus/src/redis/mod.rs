//! The bus over Redis.

use protocol::{Batch, FeedId, Offset, Source, Topic};

use crate::{
    Answer, BusError, Head, History, Publisher, Reader, Retention, Subscription, Term,
    subscription::{Inner, Raw},
};

/// Where Redis is, and what is kept there.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// `redis://` or `rediss://` URL.
    pub url: String,
    /// Prefix of all keys and channels.
    pub namespace: String,
    /// What each topic's history keeps.
    pub retention: Retention,
}

/// The bus over Redis. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RedisBus {
    settings: RedisSettings,
}

impl RedisBus {
    /// Checks the settings; connects to nothing yet.
    pub fn new(settings: RedisSettings) -> Result<Self, BusError> {
        Ok(Self { settings })
    }

    /// A listener's end. It connects at the first call and again whenever it has to.
    pub fn publisher(&self, source: Source) -> Publisher {
        Publisher::Redis(RedisPublisher { bus: self.clone(), source })
    }

    /// A gateway's commands.
    pub fn reader(&self, source: Source) -> Reader {
        Reader::Redis(RedisReader { bus: self.clone(), source })
    }

    /// A gateway's end of the channel; it connects in a task of its own that ends with it.
    pub fn subscribe(&self, source: Source) -> Subscription {
        Subscription::new(Inner::Redis(RedisSubscription { bus: self.clone(), source }))
    }
}

/// See [`Publisher`].
#[derive(Debug)]
pub struct RedisPublisher {
    bus: RedisBus,
    source: Source,
}

impl RedisPublisher {
    pub(crate) async fn begin(&mut self, _term: &Term) -> Result<Answer, BusError> {
        unimplemented!()
    }
    pub(crate) async fn publish(&mut self, _batch: &Batch) -> Result<Answer, BusError> {
        unimplemented!()
    }
}

/// See [`Reader`].
#[derive(Debug, Clone)]
pub struct RedisReader {
    bus: RedisBus,
    source: Source,
}

impl RedisReader {
    pub(crate) async fn head(&self) -> Result<Option<Head>, BusError> {
        unimplemented!()
    }
    pub(crate) async fn history(&self, _feed: &FeedId, _topic: &Topic, _after: Offset) -> Result<History, BusError> {
        unimplemented!()
    }
}

/// See [`Subscription`].
#[derive(Debug)]
pub(crate) struct RedisSubscription {
    bus: RedisBus,
    source: Source,
}

impl RedisSubscription {
    pub(crate) async fn next(&mut self) -> Raw {
        unimplemented!()
    }
}
