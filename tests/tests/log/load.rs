use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{task::JoinSet, time::sleep};
use tokio_postgres::NoTls;

/// `work(rounds)`: so many transactions of all kinds, of which some are rolled back. Rows are locked
/// in the order of tables and ids, so that few of them end in a deadlock.
const WORK: &str = r"
create procedure work(rounds int) language plpgsql as $$
declare
  dice float8;
  one text;
begin
  for i in 1..rounds loop
    dice := random();
    one := (array['a', 'b', 'c'])[1 + floor(random() * 3)];
    if dice < 0.4 then
      execute format('update %I set n = n + 1 where id = $1', one) using -1 - floor(random() * 20)::int;
    elsif dice < 0.5 then
      execute format('insert into %I (word) values (md5(random()::text))', one);
    elsif dice < 0.55 then
      execute format('delete from %1$I where id = (select id from %1$I where id > 0 limit 1 for update skip locked)', one);
    elsif dice < 0.65 then
      insert into a (word) values ('three');
      update b set n = n + 1 where id = -1 - floor(random() * 20)::int;
      insert into c (word) values ('three');
      update c set n = n + 1 where id = -1 - floor(random() * 20)::int;
    elsif dice < 0.73 then
      insert into a (word) values ('kept');
      begin
        update b set word = 'never seen' where id = -50;
        insert into c (word) values ('never seen');
        raise exception 'undone';
      exception when raise_exception then
        insert into b (word) values ('kept too');
      end;
    elsif dice < 0.8 then
      insert into a (word) values ('never seen');
      update b set word = 'never seen' where id = -51;
      rollback;
    elsif dice < 0.84 then
      begin
        execute format('update %1$I t set n = t.n + 1 from (select id from %1$I where id between -60 and -30 order by id for update) o where o.id = t.id', one);
      exception when deadlock_detected then null;
      end;
    elsif dice < 0.92 then
      insert into a (id, word) values (-1 - floor(random() * 25)::int, 'upserted') on conflict (id) do update set n = a.n + 1, word = 'upserted';
    elsif dice < 0.94 then
      update c set n = n + 1 where id = -1 - floor(random() * 20)::int;
      perform pg_sleep(random() * 0.05);
    else
      update c set n = n + 1, word = repeat('x', (random() * 3000)::int) where id = -1 - floor(random() * 20)::int;
    end if;
    commit;
  end loop;
end
$$;
";

pub fn procedures() -> String {
    WORK.into()
}

/// Connections that write without end, and come back when they are thrown out. They stop with the
/// handle.
pub struct Load {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    tasks: JoinSet<()>,
}

impl Load {
    /// So many connections, each of which runs a statement again and again.
    pub fn start(url: String, connections: usize, statement: &'static str, pause: Duration) -> Self {
        let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            tasks.spawn(run(url.clone(), statement, pause, Arc::clone(&stop), Arc::clone(&calls)));
        }
        Self { stop, calls, tasks }
    }

    /// All kinds of transactions.
    pub fn mixed(url: String, connections: usize) -> Self {
        Self::start(url, connections, "call work(10)", Duration::ZERO)
    }

    /// One row every so often.
    pub fn gentle(url: String, every: Duration) -> Self {
        Self::start(url, 1, "insert into a (word) values ('gentle')", every)
    }

    /// How many statements have ended well.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Acquire)
    }

    /// Lets each finish what it does.
    pub async fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Release);
        while self.tasks.join_next().await.is_some() {}
        self.calls()
    }
}

async fn run(url: String, statement: &str, pause: Duration, stop: Arc<AtomicBool>, calls: Arc<AtomicU64>) {
    while !stop.load(Ordering::Acquire) {
        let Ok((client, connection)) = tokio_postgres::connect(&url, NoTls).await else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        let connection = tokio::spawn(connection);
        while !stop.load(Ordering::Acquire) {
            match client.batch_execute(statement).await {
                Ok(()) => drop(calls.fetch_add(1, Ordering::AcqRel)),
                Err(_) if client.is_closed() => break,
                // A deadlock: it may happen.
                Err(_) => {}
            }
            if pause > Duration::ZERO {
                sleep(pause).await;
            }
        }
        connection.abort();
    }
}
