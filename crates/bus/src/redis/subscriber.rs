use std::{sync::Arc, time::Duration};

use fred::{
    clients::Client,
    interfaces::{ClientLike, EventInterface, PubsubInterface},
    types::{
        Message,
        config::{ConnectionConfig, PerformanceConfig, TcpConfig, UnresponsiveConfig},
    },
};
use protocol::{Backoff, Batch};
use tokio::{
    sync::broadcast::{self, error::RecvError},
    task::{JoinError, JoinHandle},
    time::{Instant, sleep, timeout},
};

use super::{
    CONNECT_TIMEOUT,
    address::Address,
    link::Losses,
    queue::{Item, Queue},
};
use crate::subscription::Raw;

/// fred hands messages over in a broadcast channel that overwrites what is not taken in time, 32
/// by default. At one turn its task reads up to 1 MiB (tokio's budget of 128 reads), which was
/// measured to be up to 8,000 of the smallest batches; then the drain takes them all. fred makes
/// eight channels of this size: 12 MiB a subscription with 16,384, 47 MiB with 65,536.
const BROADCAST_MESSAGES: usize = 16_384;

const PING_EVERY: Duration = Duration::from_secs(1);

/// A PING that has no answer by then, while nothing else comes either: the socket is dead.
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// With [`CONNECT_TIMEOUT`] below 3 s: so long may it take until a Redis that is back is noticed.
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// A connection that held this long was a good one, and the next attempt may come at once.
const GOOD_AFTER: Duration = Duration::from_secs(5);

/// See [`crate::Subscription`].
#[derive(Debug)]
pub(crate) struct RedisSubscription(pub(super) Subscriber);

/// A connection that is subscribed to a channel, and renewed for ever.
#[derive(Debug)]
pub(super) struct Subscriber {
    queue: Arc<Queue>,
    _supervisor: AbortOnDrop,
}

impl Subscriber {
    pub(super) fn new(address: Address, losses: Losses, source: &'static str, channel: String) -> Self {
        let queue = Arc::new(Queue::default());
        let supervisor = Supervisor { address, losses, source, channel, queue: queue.clone() };
        Self { queue, _supervisor: AbortOnDrop(tokio::spawn(supervisor.run())) }
    }

    pub(super) async fn next(&mut self) -> Item {
        self.queue.next().await
    }
}

impl RedisSubscription {
    pub(crate) async fn next(&mut self) -> Raw {
        match self.0.next().await {
            Item::Gap => Raw::Gap,
            Item::Lost => Raw::Lost,
            Item::Message(message) => match Batch::decode(message) {
                Ok(batch) => Raw::Batch(batch),
                Err(error) => {
                    tracing::warn!(%error, "the channel carried something that is not a batch");
                    Raw::Gap
                }
            },
        }
    }
}

/// Keeps a subscribed connection up, for ever.
///
/// fred can reconnect by itself, but not so that one can tell what was missed: a message may come
/// between its reconnect and the SUBSCRIBE. So here a client is one connection. When it ends, in
/// whichever way, the subscriber is told, and a new client is built; once its SUBSCRIBE is
/// confirmed, a gap is told.
struct Supervisor {
    address: Address,
    losses: Losses,
    source: &'static str,
    channel: String,
    queue: Arc<Queue>,
}

impl Supervisor {
    async fn run(self) {
        let mut backoff = Backoff::new(Duration::from_millis(50), LONGEST_WAIT);
        let mut lost = false;
        loop {
            let began = Instant::now();
            let why = match self.connect().await {
                Ok(mut connection) => {
                    if std::mem::take(&mut lost) {
                        tracing::info!(source = self.source, "the subscription to Redis is back");
                    }
                    self.queue.gap();
                    connection.until_lost(&self.queue).await
                }
                Err(why) => why,
            };
            if !std::mem::replace(&mut lost, true) {
                tracing::warn!(source = self.source, %why, "the subscription to Redis is lost");
                self.losses.add();
                self.queue.lost();
            }
            if began.elapsed() > GOOD_AFTER {
                backoff.reset();
            }
            sleep(backoff.delay()).await;
        }
    }

    async fn connect(&self) -> Result<Connection, String> {
        // Without a policy fred does not reconnect: the router task ends with the connection.
        let client = Client::new(self.address.fred.clone(), Some(performance()), Some(connection()), None);
        let drain = AbortOnDrop(tokio::spawn(drain(client.message_rx(), self.queue.clone())));
        let router = AbortOnDrop(client.connect());
        let mut connection = Connection { client, router, _drain: drain };
        let subscribed = timeout(CONNECT_TIMEOUT, connection.subscribe(&self.channel)).await;
        subscribed.unwrap_or_else(|_| Err("no connection in time".into()))?;
        Ok(connection)
    }
}

/// Dropping it closes the socket, which fred's router task owns.
struct Connection {
    client: Client,
    router: AbortOnDrop<Ended>,
    _drain: AbortOnDrop,
}

impl Connection {
    /// The command waits until the router has connected; it has an answer when it is confirmed.
    async fn subscribe(&mut self, channel: &str) -> Result<(), String> {
        tokio::select! {
            ended = &mut self.router.0 => Err(reason(ended)),
            confirmed = self.client.subscribe(channel) => confirmed.map_err(|e| e.to_string()),
        }
    }

    /// Waits for its end, and says why.
    async fn until_lost(&mut self, queue: &Queue) -> String {
        loop {
            tokio::select! {
                ended = &mut self.router.0 => return reason(ended),
                () = sleep(PING_EVERY) => {}
            }
            let heard = queue.heard();
            let answered = timeout(PING_TIMEOUT, self.client.ping::<()>(None)).await;
            // fred reads before it writes: in a flood a PING may wait, but then messages come.
            if !matches!(answered, Ok(Ok(()))) && queue.heard() == heard {
                return "no answer to PING".into();
            }
        }
    }
}

type Ended = Result<(), fred::error::Error>;

fn reason(ended: Result<Ended, JoinError>) -> String {
    match ended {
        Ok(Ok(())) => "closed".into(),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    }
}

/// Takes messages out of fred's channel, and does nothing else. Outside of tokio's budget, which
/// would let it take 128 at a turn while fred's task puts in a thousand.
async fn drain(mut messages: broadcast::Receiver<Message>, queue: Arc<Queue>) {
    let taking = async {
        loop {
            match messages.recv().await {
                Ok(message) => match message.value.into_bytes() {
                    Some(bytes) => queue.message(bytes),
                    None => queue.gap(),
                },
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "messages from Redis came faster than they were taken");
                    queue.gap();
                }
                Err(RecvError::Closed) => return,
            }
        }
    };
    tokio::task::coop::unconstrained(taking).await;
}

fn performance() -> PerformanceConfig {
    PerformanceConfig {
        broadcast_channel_capacity: BROADCAST_MESSAGES,
        default_command_timeout: PING_TIMEOUT,
        ..PerformanceConfig::default()
    }
}

fn connection() -> ConnectionConfig {
    ConnectionConfig {
        connection_timeout: CONNECT_TIMEOUT,
        internal_command_timeout: CONNECT_TIMEOUT,
        max_command_attempts: 1,
        unresponsive: UnresponsiveConfig { max_timeout: Some(PING_TIMEOUT), interval: PING_EVERY },
        disable_cluster_health_check: true,
        tcp: TcpConfig { nodelay: Some(true), ..TcpConfig::default() },
        ..ConnectionConfig::default()
    }
}

/// A task that does not outlive its owner.
#[derive(Debug)]
struct AbortOnDrop<T = ()>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
