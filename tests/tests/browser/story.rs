//! What befalls a page in the course of a day: gateways die, Redis restarts, its tab sleeps.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use e2e::{browser::Page, site::Site};
use serde::Deserialize;
use tokio::time::sleep;

/// A client that lost its gateway is back within this time of the gateways being back: its longest wait is 15 s.
pub const RECONNECTED: Duration = Duration::from_secs(25);
/// How long a tab sleeps.
pub const NIGHT: Duration = Duration::from_secs(60);

/// Every status that the dashboard shows.
const STATES: &str = "[...document.querySelectorAll('.state')].map((state) => state.dataset.state)";
/// The dashboard says that all is well.
pub const ALL_LIVE: &str = "(() => {
    const states = [...document.querySelectorAll('.state')];
    return states.length === 3 && states.every((state) => state.dataset.state === 'live');
})()";
/// Notes what the dashboard shows whenever that changes, and ten times a second: when, what it says of the connection and
/// of the rows, and the number of the writer's last row that it has.
const WITNESS: &str = "{
    const look = () => {
        const [connection, violations, sensors] = [...document.querySelectorAll('.state')].map((it) => it.dataset.state);
        const tile = [...document.querySelectorAll('#sensors figure')].find((it) => it.innerText.startsWith('sensor1'));
        const last = parseFloat(tile?.querySelector('strong').textContent ?? 0);
        window.sightings.push({ at: Date.now(), connection, violations, sensors, last });
    };
    window.sightings = [];
    new MutationObserver(look).observe(document.body, { subtree: true, childList: true, attributes: true, characterData: true });
    setInterval(look, 100);
}";
/// A tab that was loaded anew knows nothing of it.
const MARK: &str = "window.notReloaded = true";

/// What a page showed at a time.
#[derive(Debug, Clone, Deserialize)]
pub struct Sighting {
    /// In ms since 1970.
    pub at: f64,
    pub connection: String,
    pub violations: String,
    pub sensors: String,
    /// The number of the last row of a [`e2e::writer::Writer`].
    pub last: f64,
}

impl Sighting {
    /// Whether it says this anywhere.
    pub fn says(&self, state: &str) -> bool {
        [&self.connection, &self.violations, &self.sensors].contains(&&state.to_owned())
    }
}

/// The dashboard says this everywhere.
pub fn in_state(state: &str) -> String {
    format!("{STATES}.every((shown) => shown === '{state}')")
}

/// Marks the page, so that a reload would be noticed.
pub async fn mark(page: Page<'_>) {
    page.evaluate(MARK).await.unwrap();
}

pub async fn was_not_reloaded(page: Page<'_>) {
    assert_eq!(page.evaluate("window.notReloaded").await.unwrap(), true, "the page was loaded anew");
}

/// From now on a dashboard notes what it shows.
pub async fn witness(page: Page<'_>) {
    page.evaluate(WITNESS).await.unwrap();
}

pub async fn sightings(page: Page<'_>) -> Vec<Sighting> {
    serde_json::from_value(page.evaluate("window.sightings").await.unwrap()).unwrap()
}

pub fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() * 1000.0
}

/// When the rows of a [`e2e::writer::Writer`] were written, by their numbers: in ms since 1970.
pub async fn written_at(site: &Site) -> HashMap<u64, f64> {
    let sql =
        "select value, extract(epoch from timestamp)::float8 * 1000 from sensor_readings where sensor_id = 'sensor1'";
    let rows = site.sql().await.unwrap().query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get::<_, f64>(0) as u64, row.get(1))).collect()
}

/// Starts the gateways again.
pub async fn the_gateways_come_back(site: &mut Site) {
    for gateway in &mut site.gateways {
        gateway.restart().unwrap();
    }
    for gateway in &mut site.gateways {
        gateway.until_ready().await.unwrap();
    }
}

/// Kills Redis, and starts it again after a while.
pub async fn redis_restarts(site: &mut Site, after: Duration) {
    site.redis.kill().unwrap();
    sleep(after).await;
    site.redis.restart(true).await.unwrap();
}

/// All tabs sleep for a minute, as those in the background of a phone do.
pub async fn the_tabs_sleep(pages: &[Page<'_>]) {
    for page in pages {
        page.freeze().await.unwrap();
    }
    sleep(NIGHT).await;
    for page in pages {
        page.thaw().await.unwrap();
    }
}
