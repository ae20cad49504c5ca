use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};
use tokio_postgres::NoTls;

use super::{
    fault::{Blow, Fault, TimedFrom, Victim},
    recovery::Recovery,
    table::TABLES,
    terms::Terms,
    violation::{Crime, Violation},
};
use crate::{
    postgres::{Durability, PostgresServer, Shutdown},
    process::Process,
    proxy::Proxy,
    redis::RedisServer,
};

/// Its database.
const DATABASE: &str = "torture";
/// What `rowcast install` installs.
const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../sql/rowcast");
/// The least a listener needs, and what an application has.
const ROLES: &str = "create role listener login; select rowcast.grant_listener('listener'); \
                     create role app login; grant all on all tables in schema public to app";

/// All parts, each behind a network that can be struck.
#[derive(Debug)]
pub struct Stage {
    /// Where logs are kept if something goes wrong.
    pub folder: PathBuf,
    listeners: Vec<Seat>,
    gateways: Vec<Seat>,
    redis: Mutex<RedisServer>,
    postgres: Mutex<PostgresServer>,
    postgres_port: u16,
    writers: Proxy,
}

/// A process, and what is between it and the others.
#[derive(Debug)]
struct Seat {
    name: String,
    /// Locked while it is struck.
    process: Mutex<Process>,
    address: SocketAddr,
    postgres: Option<Proxy>,
    redis: Proxy,
    clients: Option<Proxy>,
}

impl Stage {
    /// Starts everything, with tables that are watched and empty, and waits until it is ready.
    pub async fn start(terms: &Terms, gateways: usize, folder: PathBuf) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&folder)?;
        let prepared = format!("max_prepared_transactions={}", if terms.prepares { 100 } else { 0 });
        let settings = [
            &*prepared,
            "max_connections=300",
            "timezone=UTC",
            "deadlock_timeout=100ms",
            "log_min_messages=warning",
            "log_min_error_statement=fatal",
        ];
        let (postgres, redis) =
            tokio::try_join!(PostgresServer::start_with(Durability::Full, &settings), RedisServer::start())?;
        install(&postgres).await?;
        let mut stage = Self {
            folder,
            listeners: Vec::new(),
            gateways: Vec::new(),
            writers: Proxy::to(postgres.port()).await?,
            postgres_port: postgres.port(),
            redis: Mutex::new(redis),
            postgres: Mutex::new(postgres),
        };
        for number in 0..2 {
            let seat = stage.listener(number, terms).await?;
            stage.listeners.push(seat);
        }
        for number in 0..gateways {
            let seat = stage.gateway(number, terms).await?;
            stage.gateways.push(seat);
        }
        for seat in stage.listeners.iter().chain(&stage.gateways) {
            seat.process.lock().await.until_ready().await?;
        }
        Ok(stage)
    }

    async fn listener(&self, number: usize, terms: &Terms) -> anyhow::Result<Seat> {
        let redis = Proxy::to(self.redis.lock().await.port()).await?;
        let postgres = Proxy::to(self.postgres_port).await?;
        let url = format!("{}-{number}", url("listener", postgres.port()));
        let bus = format!("redis://127.0.0.1:{}", redis.port());
        let flags = terms.listener();
        let process = Process::listener(&url, &bus, &flags.iter().map(String::as_str).collect::<Vec<_>>())?;
        let (name, address) = (format!("listener-{number}"), process.address());
        Ok(Seat { name, process: Mutex::new(process), address, postgres: Some(postgres), redis, clients: None })
    }

    async fn gateway(&self, number: usize, terms: &Terms) -> anyhow::Result<Seat> {
        let redis = Proxy::to(self.redis.lock().await.port()).await?;
        let (name, bus) = (format!("gateway-{number}"), format!("redis://127.0.0.1:{}", redis.port()));
        let flags = [vec![format!("--name={name}")], terms.gateway()].concat();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let process = Process::gateway(&url("nobody", self.postgres_port), &bus, &flags)?;
        let address = process.address();
        let clients = Some(Proxy::to(address.port()).await?);
        Ok(Seat { name, process: Mutex::new(process), address, postgres: None, redis, clients })
    }

    /// The database, past all proxies, for who only looks and for the probes.
    pub fn url(&self) -> String {
        url("postgres", self.postgres_port)
    }

    /// The database as writers reach it.
    pub fn writers_url(&self) -> String {
        url("app", self.writers.port())
    }

    /// The gateways as clients reach them.
    pub fn gateways(&self) -> Arc<[SocketAddr]> {
        let clients = self.gateways.iter().filter_map(|seat| seat.clients.as_ref());
        clients.map(|proxy| SocketAddr::from((Ipv4Addr::LOCALHOST, proxy.port()))).collect()
    }

    /// Where `/metrics` of listeners and gateways are.
    pub fn metrics(&self) -> Vec<SocketAddr> {
        self.listeners.iter().chain(&self.gateways).map(|seat| seat.address).collect()
    }

    /// Whether a process ended that was not struck.
    pub fn died(&self) -> Result<(), Violation> {
        for seat in self.listeners.iter().chain(&self.gateways) {
            let Ok(mut process) = seat.process.try_lock() else { continue };
            if let Some(status) = process.exited() {
                return Err(Violation::new(Crime::Died, &seat.name, format!("it ended with {status}")));
            }
        }
        Ok(())
    }

    /// Does what a fault says, and undoes it after its time. Returns which one was struck. `alone`
    /// tells whether its recovery is that of one fault.
    pub async fn strike(&self, fault: Fault, recovery: &Recovery, alone: &AtomicBool) -> anyhow::Result<String> {
        let clock = Clock { fault, recovery, alone };
        match fault.victim {
            Victim::Leader => self.strike_seat(&self.listeners[self.leader().await], &clock).await,
            Victim::Standby => self.strike_seat(&self.listeners[1 - self.leader().await], &clock).await,
            Victim::Gateway(number) => self.strike_seat(&self.gateways[number % self.gateways.len()], &clock).await,
            Victim::Redis => self.strike_redis(&clock).await.map(|()| "redis".into()),
            Victim::Postgres => self.strike_postgres(&clock).await.map(|()| "postgres".into()),
            Victim::Writers => {
                strike_link(&self.writers, &clock, fault.blow == Blow::StallPostgres).await;
                Ok("writers".into())
            }
        }
    }

    /// The listener that leads: whose session has the lock, and, if PostgreSQL cannot be asked, the
    /// one that says so itself.
    async fn leader(&self) -> usize {
        if let Ok(Ok(number)) = timeout(Duration::from_secs(1), self.lock_holder()).await {
            return number;
        }
        let leads = async |seat: &Seat| {
            let address = seat.address;
            let text = tokio::task::spawn_blocking(move || crate::process::get(address, "/metrics")).await;
            matches!(text, Ok(Ok((200, text))) if text.contains("rowcast_listener_leader{source=\"log\"} 1\n"))
        };
        let (first, second) = tokio::join!(leads(&self.listeners[0]), leads(&self.listeners[1]));
        usize::from(second && !first)
    }

    async fn lock_holder(&self) -> anyhow::Result<usize> {
        let (client, connection) = tokio_postgres::connect(&self.url(), NoTls).await?;
        let connection = tokio::spawn(connection);
        let sql = "select application_name from pg_locks join pg_stat_activity using (pid)
                   where locktype = 'advisory' and granted and application_name like 'torture-listener-%'";
        let name: String = client.query(sql, &[]).await?.first().context("nobody leads")?.get(0);
        connection.abort();
        Ok(usize::from(name.ends_with("-1")))
    }

    async fn strike_seat(&self, seat: &Seat, clock: &Clock<'_>) -> anyhow::Result<String> {
        let mut process = seat.process.lock().await;
        match clock.fault.blow {
            Blow::Kill => {
                process.kill9()?;
                clock.blow();
                clock.wait().await;
                process.restart()?;
                clock.back();
            }
            Blow::Term => {
                // One that has only just been started does not know the signal yet.
                process.until_alive().await?;
                clock.blow();
                let code = process.term().await.with_context(|| format!("{} after SIGTERM", seat.name))?;
                if code != Some(0) {
                    let how = format!("it ended with {code:?} after SIGTERM");
                    return Err(Violation::new(Crime::Died, &seat.name, how).into());
                }
                clock.wait().await;
                process.restart()?;
                clock.back();
            }
            Blow::Freeze => {
                process.pause()?;
                clock.blow();
                clock.wait().await;
                process.resume()?;
                clock.back();
            }
            blow => {
                let link = match blow {
                    Blow::StallPostgres | Blow::CutPostgres => seat.postgres.as_ref(),
                    Blow::StallClients | Blow::CutClients => seat.clients.as_ref(),
                    _ => Some(&seat.redis),
                };
                let stalls = matches!(blow, Blow::StallPostgres | Blow::StallClients | Blow::StallRedis);
                strike_link(link.context("no such link")?, clock, stalls).await;
            }
        }
        Ok(seat.name.clone())
    }

    async fn strike_redis(&self, clock: &Clock<'_>) -> anyhow::Result<()> {
        let mut redis = self.redis.lock().await;
        clock.blow();
        match clock.fault.blow {
            Blow::Flush => redis.command(&["FLUSHALL"]).await?,
            Blow::Freeze => {
                redis.pause()?;
                clock.wait().await;
                redis.resume()?;
            }
            blow => {
                if blow == Blow::Term {
                    // It has no answer to this.
                    drop(redis.command::<()>(&["SHUTDOWN", "NOSAVE"]).await);
                }
                redis.kill()?;
                if blow == Blow::Rewind {
                    redis.forget_last_third()?;
                }
                clock.wait().await;
                redis.restart(blow != Blow::Empty).await?;
            }
        }
        clock.back();
        Ok(())
    }

    async fn strike_postgres(&self, clock: &Clock<'_>) -> anyhow::Result<()> {
        let mut postgres = self.postgres.lock().await;
        clock.blow();
        match clock.fault.blow {
            Blow::Terminate => {
                let sql = "select pg_terminate_backend(pid) from pg_stat_activity \
                           where backend_type = 'client backend' and pid <> pg_backend_pid()";
                postgres.execute(DATABASE, sql).await?;
            }
            Blow::Freeze => {
                postgres.pause()?;
                clock.wait().await;
                postgres.resume()?;
            }
            blow => {
                if blow == Blow::KillPostmaster {
                    postgres.kill9()?;
                } else if let Err(error) = postgres.stop(Shutdown::Immediate).await {
                    // Killed by now, which is a crash too.
                    append(&self.folder.join("postgres.log"), &format!("{error:#}\n"))?;
                }
                clock.wait().await;
                append(&self.folder.join("postgres.log"), &postgres.log())?;
                postgres.restart(Shutdown::Immediate).await?;
            }
        }
        clock.back();
        Ok(())
    }

    /// Ends the writers' sessions, and what they have prepared: nobody writes any more.
    pub async fn end_writers(&self) -> anyhow::Result<()> {
        let postgres = self.postgres.lock().await;
        let sql = "select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = 'app'";
        postgres.execute(DATABASE, sql).await?;
        let client = postgres.connect(DATABASE).await?;
        for row in client.query("select gid from pg_prepared_xacts", &[]).await? {
            client.batch_execute(&format!("commit prepared '{}'", row.get::<_, &str>(0))).await?;
        }
        Ok(())
    }

    /// Writes all logs to the folder.
    pub async fn keep_logs(&self) -> anyhow::Result<()> {
        for seat in self.listeners.iter().chain(&self.gateways) {
            let log = seat.process.lock().await.log();
            std::fs::write(self.folder.join(format!("{}.log", seat.name)), log)?;
        }
        append(&self.folder.join("postgres.log"), &self.postgres.lock().await.log())?;
        std::fs::write(self.folder.join("redis.log"), self.redis.lock().await.log())?;
        Ok(())
    }
}

/// Tells when the fault began and ended.
struct Clock<'a> {
    fault: Fault,
    recovery: &'a Recovery,
    alone: &'a AtomicBool,
}

impl Clock<'_> {
    fn blow(&self) {
        self.timed(TimedFrom::Blow);
    }

    fn back(&self) {
        self.timed(TimedFrom::Back);
    }

    fn timed(&self, from: TimedFrom) {
        if self.fault.timed_from() == from {
            self.recovery.begin(self.fault.kind(), self.alone.load(Ordering::Acquire));
        }
    }

    async fn wait(&self) {
        sleep(self.fault.lasts).await;
    }
}

async fn strike_link(link: &Proxy, clock: &Clock<'_>, stalls: bool) {
    if stalls {
        link.stall()
    } else {
        link.cut()
    }
    clock.blow();
    clock.wait().await;
    link.forward();
    clock.back();
}

fn url(role: &str, port: u16) -> String {
    format!("postgres://{role}@127.0.0.1:{port}/{DATABASE}?application_name=torture-{role}")
}

async fn install(postgres: &PostgresServer) -> anyhow::Result<()> {
    postgres.copy_database("template1", DATABASE).await?;
    let client = postgres.connect(DATABASE).await?;
    let mut files: Vec<_> = std::fs::read_dir(SCHEMA)?.collect::<Result<Vec<_>, _>>()?;
    files.sort_by_key(std::fs::DirEntry::path);
    for file in files {
        let sql = std::fs::read_to_string(file.path())?;
        client.batch_execute(&sql).await.with_context(|| file.path().display().to_string())?;
    }
    for table in &TABLES {
        let watch = format!("select rowcast.watch('{}'{})", table.sql, table.watched);
        client.batch_execute(table.ddl).await.context(table.sql)?;
        client.batch_execute(&watch).await.context(watch)?;
    }
    client.batch_execute(ROLES).await.context("the roles")?;
    Ok(())
}

fn append(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}
