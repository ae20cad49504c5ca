//! The example of the JavaScript client: the recipes' pages on its hooks.

use std::{path::PathBuf, time::Duration};

use e2e::{
    browser::{Browser, Page},
    dashboard::Dashboard,
    eventually::eventually,
    site::{SOON, Site},
    writer::Writer,
};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::story::{self, ALL_LIVE, in_state};

const GATEWAYS_AWAY: Duration = Duration::from_secs(8);
/// Longer than the client needs to notice.
const REDIS_AWAY: Duration = Duration::from_secs(25);

/// What the tables hold, as the page shows it.
const ROWS: &str = "
    select coalesce(json_agg(t.row order by t.at, t.id), '[]')::text from (
      select 'sensor_readings' as at, id, json_build_array('', id, sensor_id, value) as row from sensor_readings
      union all select kind, id, json_build_array(kind, id, 'Camera ' || camera_id, violation_date || ' ' || violation_time) from (
        select 'violation_humandetections' as kind, * from violation_humandetections
        union all select 'violation_lotodetections', * from violation_lotodetections
        union all select 'violation_ppedetections', * from violation_ppedetections) v) t";
/// What the page shows, in the same order.
const SHOWN: &str = "(() => {
    const words = (li, part) => li.querySelector(part).textContent.trim();
    const rows = [...document.querySelectorAll('#sensors li')].map((li) =>
        ['', Number(li.dataset.id), words(li, 'span'), parseFloat(words(li, 'b'))]);
    const violations = [...document.querySelectorAll('#violations li')].map((li) =>
        [li.dataset.table, Number(li.dataset.id), words(li, 'b'), words(li, 'time')]);
    const order = (a, b) => a[0].localeCompare(b[0]) || a[1] - b[1];
    return [...rows.sort(order), ...violations.sort(order)];
})()";

/// Waits until the page shows exactly what the tables hold.
pub async fn shows_the_tables(page: Page<'_>, site: &Site) {
    let sql = site.sql().await.unwrap();
    eventually("the page shows exactly the tables' rows", SOON, async || {
        let text: String = sql.query_one(ROWS, &[]).await.unwrap().get(0);
        let (held, shown) = (serde_json::from_str::<Value>(&text).unwrap(), page.evaluate(SHOWN).await.unwrap());
        if held == shown { Ok(()) } else { Err(difference(&held, &shown)) }
    })
    .await;
}

fn difference(held: &Value, shown: &Value) -> String {
    let rows = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let (held, shown) = (rows(held), rows(shown));
    let without = |some: &[Value], others: &[Value]| -> Vec<Value> {
        some.iter().filter(|row| !others.contains(row)).cloned().collect()
    };
    let (missing, wrong) = (without(&held, &shown), without(&shown, &held));
    format!("{} held, {} shown; missing: {missing:?}; wrong: {wrong:?}", held.len(), shown.len())
}

pub async fn open<'a>(browser: &'a Browser, dashboard: &Dashboard) -> Page<'a> {
    let page = browser.open(&format!("http://{}/", dashboard.address())).await.unwrap();
    page.until(ALL_LIVE, SOON).await.unwrap();
    page
}

async fn says(page: Page<'_>, selector: &str, words: &str) {
    let condition = format!("(document.querySelector('{selector}')?.textContent ?? '').includes({})", json!(words));
    page.until(&condition, SOON).await.unwrap();
}

/// Pictures go to the folder in ROWCAST_SCREENSHOTS, if that is set.
#[tokio::test]
async fn the_dashboard_shows_and_stores_rows_says_how_things_are_and_fits_every_screen() {
    let mut site = Site::with_log().await.unwrap();
    let browser = Browser::start(&[]).await.unwrap();
    let dashboard = Dashboard::start(&site.database_url(), site.address()).await.unwrap();
    let page = open(&browser, &dashboard).await;
    let folder = tempfile::tempdir().unwrap();
    let into = std::env::var_os("ROWCAST_SCREENSHOTS").map_or_else(|| folder.path().to_owned(), PathBuf::from);
    let look = async |name: &str| {
        for (width, height) in [(360, 740), (820, 1180), (1440, 900)] {
            page.resize(width, height).await.unwrap();
            for scheme in ["light", "dark"] {
                page.color_scheme(scheme).await.unwrap();
                page.screenshot(&into.join(format!("dashboard-{name}-{width}-{scheme}.png")), true).await.unwrap();
            }
            let wider = page.evaluate("document.documentElement.scrollWidth - innerWidth").await.unwrap();
            assert!(wider.as_i64() <= Some(0), "{name}: {wider} pixels wider than a screen of {width}");
        }
    };
    says(page, "#sensors .empty", "Waiting for sensor data...").await;
    look("empty").await;

    // By its own buttons, and by others.
    page.until("document.querySelector('[data-bell]').dataset.bell === 'on'", SOON).await.unwrap();
    page.click("#violations form button").await.unwrap();
    page.until("document.querySelectorAll('#violations li').length === 1", SOON).await.unwrap();
    page.until("window.played.join() === 'tone'", SOON).await.unwrap();
    page.click("#sensors form button").await.unwrap();
    says(page, "#sensors output", "Stored.").await;
    let long = "x".repeat(300);
    site.execute(&format!(
        "insert into sensor_readings(sensor_id, value, metadata)
           select 'sensor' || n % 3, round((20 + 5 * sin(n / 4.0))::numeric, 1), '{{\"unit\": \"celsius\"}}' from generate_series(1, 120) n;
         insert into sensor_readings(sensor_id, value, metadata) values ('{long}', -1234567.875, '{{\"unit\": \"{long}\"}}');
         insert into violation_ppedetections(camera_id) values (3);
         insert into violation_lotodetections(camera_id) select generate_series(1, 30);
         update violation_humandetections set camera_id = 8;
         delete from violation_ppedetections"
    ))
    .await
    .unwrap();
    shows_the_tables(page, &site).await;
    page.until(ALL_LIVE, SOON).await.unwrap();
    look("rows").await;

    // What was not captured may have been missed: it loads anew, and says so.
    site.execute("select rowcast.unwatch('sensor_readings')").await.unwrap();
    site.execute("insert into sensor_readings(sensor_id, value) values ('unseen', 1)").await.unwrap();
    site.execute("select rowcast.watch('sensor_readings')").await.unwrap();
    says(page, "#sensors .reset", "Loaded anew at").await;
    shows_the_tables(page, &site).await;
    page.until(ALL_LIVE, SOON).await.unwrap();
    look("reset").await;

    // Rows that cannot be loaded: it says why, and tries again.
    site.execute("alter table sensor_readings rename column id to number").await.unwrap();
    let newcomer = browser.open(&format!("http://{}/", dashboard.address())).await.unwrap();
    says(newcomer, "#sensors .note.wrong", "the rows of sensor_readings cannot be loaded: 503").await;
    says(newcomer, "#sensors .state", "Tries again in").await;
    newcomer.screenshot(&into.join("dashboard-unloaded.png"), true).await.unwrap();
    site.execute("alter table sensor_readings rename column number to id").await.unwrap();
    newcomer.until(ALL_LIVE, story::RECONNECTED).await.unwrap();
    shows_the_tables(newcomer, &site).await;

    // Nobody is there.
    site.gateways.iter_mut().for_each(|gateway| gateway.kill9().unwrap());
    page.until(&in_state("waiting"), SOON).await.unwrap();
    page.click("#sensors form button").await.unwrap();
    says(page, "#sensors output.wrong", "Not stored: No gateway answers.").await;
    site.execute("insert into violation_ppedetections(camera_id) values (9)").await.unwrap();
    look("waiting").await;
    for gateway in &mut site.gateways {
        gateway.restart().unwrap();
        gateway.until_ready().await.unwrap();
    }
    page.until(ALL_LIVE, SOON).await.unwrap();
    shows_the_tables(page, &site).await;
}

/// The dashboard asks for a watermark each 5 s, so the client notices within 11 s that a gateway hears nothing; on a
/// busy machine.
const NOTICED_WITHIN_MS: f64 = 13_000.0;
/// A close is noticed at once, and what is written is here at once; on a busy machine.
const AT_ONCE_MS: f64 = 2_000.0;

#[tokio::test]
async fn the_dashboard_outlives_gateways_redis_and_a_minute_of_sleep_and_what_it_says_of_itself_is_true() {
    let mut site = Site::with_log().await.unwrap();
    let browser = Browser::start(&[]).await.unwrap();
    let dashboard = Dashboard::start(&site.database_url(), site.address()).await.unwrap();
    let page = open(&browser, &dashboard).await;
    story::mark(page).await;
    story::witness(page).await;
    let rings = async |times: usize| {
        page.until(&format!("window.played.join() === '{}'", vec!["tone"; times].join(",")), SOON).await.unwrap();
    };
    site.execute("insert into violation_humandetections(camera_id) values (1)").await.unwrap();
    rings(1).await;
    // The page shows 500 rows: that is 200 s.
    let writer = Writer::start(site.database_url(), Duration::from_millis(400));
    page.until("document.querySelectorAll('#sensors li').length > 3", SOON).await.unwrap();

    let gateways_died = story::now_ms();
    site.gateways.iter_mut().for_each(|gateway| gateway.kill9().unwrap());
    site.execute(
        "update sensor_readings set value = 1.5 where id = 1;
         delete from sensor_readings where id = 2;
         insert into violation_ppedetections(camera_id) values (2)",
    )
    .await
    .unwrap();
    sleep(GATEWAYS_AWAY).await;
    let gateways_back = story::now_ms();
    story::the_gateways_come_back(&mut site).await;
    page.until(ALL_LIVE, story::RECONNECTED).await.unwrap();
    rings(2).await;

    let redis_died = story::now_ms();
    story::redis_restarts(&mut site, REDIS_AWAY).await;
    let redis_back = story::now_ms();
    page.until(ALL_LIVE, SOON).await.unwrap();

    story::the_tabs_sleep(&[page]).await;
    let awake = story::now_ms();
    page.until(ALL_LIVE, story::RECONNECTED).await.unwrap();
    site.execute("insert into violation_lotodetections(camera_id) values (3)").await.unwrap();
    rings(3).await;

    let last = writer.stop().await.unwrap();
    assert!(last < 480, "the page does not show all of {last} rows: this machine is too slow for this test");
    shows_the_tables(page, &site).await;
    page.until(ALL_LIVE, SOON).await.unwrap();
    story::was_not_reloaded(page).await;
    assert_eq!(page.evaluate("document.querySelectorAll('.reset').length").await.unwrap(), 0);

    // What it said.
    let seen = story::sightings(page).await;
    let during = |from: f64, to: f64| seen.iter().filter(move |it| from < it.at && it.at < to);
    let without_gateways: Vec<_> = during(gateways_died + AT_ONCE_MS, gateways_back).collect();
    assert!(without_gateways.iter().any(|it| it.says("waiting")), "{without_gateways:?}");
    assert!(!without_gateways.iter().any(|it| it.says("live")), "{without_gateways:?}");
    let without_redis: Vec<_> = during(redis_died + NOTICED_WITHIN_MS, redis_back).collect();
    assert!(
        without_redis.len() > 10 && without_redis.iter().all(|it| it.sensors == "catching up"),
        "{without_redis:?}"
    );
    // "What is here is what there is": the row behind the last one that is shown was not there for long.
    let written = story::written_at(&site).await;
    for it in seen.iter().filter(|it| it.sensors == "live" || it.connection == "live") {
        let patience = match it.at {
            at if redis_died < at && at < redis_back + AT_ONCE_MS => NOTICED_WITHIN_MS,
            // It must run before it can notice that it has slept.
            at if awake < at && at < awake + AT_ONCE_MS => continue,
            _ => AT_ONCE_MS,
        };
        let missing_since = written.get(&(it.last as u64 + 1)).map_or(0.0, |written| it.at - written);
        assert!(missing_since < patience, "{it:?} does not have a row that has been there for {missing_since} ms");
    }
}
