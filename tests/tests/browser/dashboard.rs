//! The example of the JavaScript client: the recipes' pages on its hooks.

use std::path::PathBuf;

use e2e::{
    browser::{Browser, Page},
    dashboard::Dashboard,
    eventually::eventually,
    site::{SOON, Site},
};
use serde_json::{Value, json};

use crate::story::{ALL_LIVE, in_state};

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

    // Nobody is there.
    site.gateways.iter_mut().for_each(|gateway| gateway.kill9().unwrap());
    page.until(&in_state("waiting"), SOON).await.unwrap();
    page.click("#sensors form button").await.unwrap();
    says(page, "#sensors output.wrong", "Not stored: 503").await;
    site.execute("insert into violation_ppedetections(camera_id) values (9)").await.unwrap();
    look("waiting").await;
    for gateway in &mut site.gateways {
        gateway.restart().unwrap();
        gateway.until_ready().await.unwrap();
    }
    page.until(ALL_LIVE, SOON).await.unwrap();
    shows_the_tables(page, &site).await;
}
