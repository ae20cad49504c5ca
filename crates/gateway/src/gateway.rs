//! A whole gateway: feeds, shards, and what they share.

use std::{
    cell::RefCell,
    net::{SocketAddr, TcpListener},
    num::NonZeroUsize,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use bus::Bus;
use protocol::{Source, config::Config};
use service::{SettingsError, postgres::PostgresSettings, systemd::Pulse};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    access::{Access, AccessSettings},
    feed::Feed,
    historian::Historian,
    http::{self, Front},
    hub::{HubHandle, HubSettings},
    ingest::{self, Database},
    inspect::{self, Guard, Inspector, Shards},
    limits::Limits,
    metrics::Metrics,
    ready::Readiness,
    realtime::{self, Outbound, SHARD_BROADCASTS},
    session::Sessions,
    settings::Settings,
    shard::{Shard, Sockets},
};

/// Events that may wait for a shard. Past that the feeds wait, and then the bus' own limit counts.
const SHARD_EVENTS: usize = 1024;

/// Files that are not clients: listeners, the bus, the database, logs.
const OWN_FILES: usize = 200;

/// Files for which the kernel's table has room from the beginning: half a MiB of its memory.
const RESERVED_FILES: usize = 65_536;

/// Every shard moves at least this often, whatever it is busy with.
const ALIVE: Duration = Duration::from_secs(10);

/// Accept queue of each shard.
const BACKLOG: i32 = 4096;

/// Bytes that are read from a socket at once.
const READ_BYTES: usize = 16 * 1024;

/// A gateway that has its address and has not begun to serve.
pub struct Gateway {
    settings: Settings,
    config: Config,
    bus: Bus,
    address: SocketAddr,
    listeners: Vec<TcpListener>,
    access: Access,
    ingest: axum::Router,
    guard: Option<Guard>,
}

impl Gateway {
    /// Checks the settings and takes the address. What is wrong with them is a [`SettingsError`].
    pub async fn bind(settings: Settings, config: Config, bus: Bus) -> anyhow::Result<Self> {
        check_bind(&settings, &config)?;
        let guard = Guard::new(&settings, config.auth.is_some())?;
        let access = Access::new(AccessSettings {
            auth: config.auth.clone(),
            anonymous: settings.access.anonymous,
            trusted_proxies: settings.access.trusted_proxies.clone(),
        })
        .await?;
        let database = database(&settings, &config)?;
        let ingest = ingest::router(&config.ingests, database, access.clone());
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let shards = settings.limits.shards.unwrap_or(cores).max(1);
        let listeners = listen(settings.bind, shards).map_err(|problem| SettingsError::Bind {
            setting: "--bind (ROWCAST_BIND)".into(),
            address: settings.bind.to_string(),
            problem,
        })?;
        let address = listeners[0].local_addr()?;
        Ok(Self { settings, config, bus, address, listeners, access, ingest, guard })
    }

    /// The address that it serves on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it has an inspector.
    pub fn has_inspector(&self) -> bool {
        self.guard.is_some()
    }

    /// Serves until the shutdown, then drains.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let metrics = Metrics::default();
        let limits = &self.settings.limits;
        let most = limits.max_connections.unwrap_or_else(|| files() - OWN_FILES.min(files() / 2));
        let name: Arc<str> = self.settings.name.clone().unwrap_or_else(|| self.address.to_string()).into();
        let (events, inboxes): (Vec<_>, Vec<_>) = self.listeners.iter().map(|_| mpsc::channel(SHARD_EVENTS)).unzip();
        let feeds: Vec<Feed> = Source::ALL
            .into_iter()
            .map(|source| Feed::new(&self.bus, source, events.clone(), metrics.clone()))
            .collect();
        drop(events);
        let status = feeds.iter().map(|feed| (feed.source(), feed.status())).collect();
        let readiness = Readiness::new(status, metrics.clone());
        let historian = Historian::start(&self.bus, metrics.clone());
        let all = Limits::new(most, limits.max_connections_per_ip.unwrap_or(most));
        let sockets = Sockets::new(all.clone(), most + OWN_FILES / 2);
        let pulses: Vec<Pulse> = inboxes.iter().map(|_| Pulse::default()).collect();
        reserve_files(&self.listeners[0], most + OWN_FILES);
        info!(address = %self.address, gateway = &*name, shards = inboxes.len(), connections = most, "serving");

        // The feeds outlive the shutdown: who waits for its close still gets its changes.
        let feeding = CancellationToken::new();
        let mut feeding_tasks = JoinSet::new();
        for feed in feeds {
            feeding_tasks.spawn(feed.run(feeding.clone()));
        }
        let outbound = Outbound::start(&self.bus, metrics.clone(), feeding.clone());
        let (shard_broadcasts, broadcasts): (Vec<_>, Vec<_>) =
            inboxes.iter().map(|_| mpsc::channel(SHARD_BROADCASTS)).unzip();
        let hearing = realtime::hear(self.bus.broadcasts(), shard_broadcasts, metrics.clone());
        let until = feeding.clone();
        feeding_tasks.spawn(async move {
            until.run_until_cancelled(hearing).await;
        });
        let hub_settings = HubSettings {
            queue_bytes: limits.queue_bytes,
            recent_bytes: limits.recent_bytes,
            max_subscriptions: limits.max_subscriptions,
            ping: Duration::from_millis(limits.ping_ms),
            stall: Duration::from_millis(limits.stall_ms),
            inspect: self.guard.is_some(),
        };
        let (arrivals, receptions): (Vec<_>, Vec<_>) = inboxes.iter().map(|_| mpsc::unbounded_channel()).unzip();
        let fronts: Vec<Front> = arrivals
            .iter()
            .map(|arrivals| Front {
                name: Arc::clone(&name),
                access: self.access.clone(),
                limits: all.clone(),
                readiness: readiness.clone(),
                metrics: metrics.clone(),
                sockets: sockets.clone(),
                stopping: shutdown.clone(),
                drain: Duration::from_millis(limits.drain_ms),
                outbound: outbound.clone(),
                max_body_bytes: limits.max_frame_bytes as usize,
                arrivals: arrivals.clone(),
            })
            .collect();
        let readers = Source::ALL.map(|source| (source, self.bus.reader(source)));
        let inspector = self.guard.map(|guard| {
            inspect::router(Inspector::new(
                &fronts[0],
                guard,
                Shards::new(&arrivals),
                historian.clone(),
                readers.into(),
            ))
        });
        let inspector = inspector.unwrap_or_default();
        // A shard's channel ends with its front.
        drop(arrivals);
        let mut shards = JoinSet::new();
        let inboxes = inboxes.into_iter().zip(broadcasts);
        let parts = self.listeners.into_iter().zip(inboxes).zip(fronts.into_iter().zip(receptions));
        for (index, ((listener, (events, broadcasts)), (front, admitted))) in parts.enumerate() {
            let shard = Shard {
                listener,
                router: http::router(front, &self.config, self.ingest.clone(), inspector.clone()),
                events,
                broadcasts,
                arrivals: admitted,
                sockets: sockets.clone(),
                pulse: pulses[index].clone(),
                drain: Duration::from_millis(limits.drain_ms),
                shutdown: shutdown.clone(),
            };
            let (hub_settings, historian, metrics) = (hub_settings.clone(), historian.clone(), metrics.clone());
            let (access, name, outbound) = (self.access.clone(), Arc::clone(&name), outbound.clone());
            let (max_frame_bytes, max_messages_per_s) = (limits.max_frame_bytes, limits.max_messages_per_s);
            let sessions = move || Sessions {
                hub: HubHandle::new(hub_settings, historian, metrics.clone(), index),
                access,
                metrics,
                outbound,
                name: Rc::from(&*name),
                max_frame_bytes,
                max_messages_per_s,
                scratch: RefCell::new(vec![0; READ_BYTES]),
            };
            // A thread of its own and not one of the runtime's: it never gives it back.
            let (done, ended) = tokio::sync::oneshot::channel();
            std::thread::Builder::new().name(format!("shard-{index}")).spawn(move || {
                // Nobody waits for the result any more only if the process ends anyway.
                drop(done.send(shard.run(sessions)));
            })?;
            shards.spawn(ended);
        }
        service::systemd::ready();
        let watchdog = service::systemd::watchdog(move || pulses.iter().all(|pulse| pulse.beat_within(ALIVE)));
        tokio::select! {
            () = shutdown.cancelled() => {}
            Some(ended) = shards.join_next() => {
                ended?.context("a shard has panicked")?.context("a shard cannot run")?;
            }
            // Without one of them clients would wait for ever, and everything else would look alive.
            Some(ended) = feeding_tasks.join_next() => {
                ended.context("a feed has panicked")?;
                bail!("a feed has ended");
            }
        }
        readiness.drain();
        service::systemd::stopping();
        info!("draining");
        while let Some(ended) = shards.join_next().await {
            ended?.context("a shard has panicked")?.context("a shard cannot run")?;
        }
        feeding.cancel();
        while feeding_tasks.join_next().await.is_some() {}
        if let Some(watchdog) = watchdog {
            watchdog.abort();
        }
        info!("stopped");
        Ok(())
    }
}

/// The database of the ingests, looked at in the background.
fn database(settings: &Settings, config: &Config) -> Result<Option<Database>, SettingsError> {
    if config.ingests.is_empty() {
        return Ok(None);
    }
    let Some(url) = &settings.database_url else {
        warn!("rowcast.toml has [[ingest]], and there is no --database-url: every POST will be answered 503");
        return Ok(None);
    };
    let database = Database::new(PostgresSettings::parse("--database-url (DATABASE_URL)", url, "rowcast-gateway")?);
    let (ingests, looked_at) = (config.ingests.clone(), database.clone());
    tokio::spawn(async move { ingest::warn_of_unusable_tables(&ingests, &looked_at).await });
    Ok(Some(database))
}

/// Serving more than this machine needs somebody's word for it.
fn check_bind(settings: &Settings, config: &Config) -> Result<(), SettingsError> {
    if settings.bind.ip().is_loopback() || settings.access.anonymous || config.auth.is_some() {
        return Ok(());
    }
    Err(SettingsError::Wrong {
        setting: "--bind (ROWCAST_BIND)".into(),
        value: settings.bind.to_string(),
        right: "a loopback address such as 127.0.0.1:8080, because everybody who reaches another one could read all \
                changes; or set up [auth] in rowcast.toml; or give --anonymous if that is what you want"
            .into(),
    })
}

/// One listener a shard, all on the same address: the kernel deals connections out to them.
fn listen(address: SocketAddr, shards: usize) -> std::io::Result<Vec<TcpListener>> {
    // SO_REUSEPORT would let a second gateway share the port unnoticed: see first that it is free.
    let probe = socket(address, false)?;
    let address = probe.local_addr()?;
    drop(probe);
    (0..shards).map(|_| socket(address, true)).collect()
}

fn socket(address: SocketAddr, shared: bool) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    crate::socket::prepare(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Makes the kernel's table of this process' files as large as it will have to be. It grows by
/// doubling, and for a process with several threads each time takes a grace period of the kernel:
/// whoever accepts then, and with it all of its shard, stood still for 6 to 24 ms.
fn reserve_files(any: &TcpListener, count: usize) {
    let last = count.min(files()).min(RESERVED_FILES) - 1;
    // The table stays as it is when the file is closed.
    if let Err(error) = rustix::io::fcntl_dupfd_cloexec(any, last as i32) {
        warn!(%error, "cannot make room for {count} open files at once: clients may wait while more connect");
    }
}

/// How many files the process may open, after asking for as many as it may ask for.
fn files() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        warn!(%error, "cannot raise the limit on open files");
    }
    let current = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
    usize::try_from(current).unwrap_or(1024).min(1 << 20)
}
