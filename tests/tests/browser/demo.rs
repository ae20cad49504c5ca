//! The demo page, through nginx.

use std::{path::PathBuf, time::Duration};

use e2e::{
    browser::{Browser, Page},
    eventually::eventually,
    process::Process,
    site::{SOON, Site},
    writer::Writer,
};
use serde_json::{Value, json};
use tokio::time::sleep;

const LIVE: &str = "document.getElementById('status').dataset.state === 'live'";
/// Notes every state that the page shows from now on.
const WATCH_STATES: &str = "{
    const status = document.getElementById('status');
    window.states = [status.dataset.state];
    new MutationObserver(() => {
        if (window.states.at(-1) !== status.dataset.state) window.states.push(status.dataset.state);
    }).observe(status, { attributes: true });
}";

async fn open<'a>(browser: &'a Browser, site: &Site) -> Page<'a> {
    let page = browser.open(&format!("http://{}/", site.address())).await.unwrap();
    page.until(LIVE, SOON).await.unwrap();
    page
}

fn rows(panel: &str, count: u64) -> String {
    format!("document.querySelectorAll('#{panel} li.row').length === {count}")
}

fn says(selector: &str, words: &str) -> String {
    format!("(document.querySelector('{selector}')?.textContent ?? '').includes({})", json!(words))
}

async fn text(page: Page<'_>, id: &str) -> String {
    let text = page.evaluate(&format!("document.getElementById('{id}').textContent")).await.unwrap();
    text.as_str().unwrap_or_default().to_owned()
}

/// The gateway that serves the page, as the page says.
async fn serving(page: Page<'_>, site: &Site) -> usize {
    let says = text(page, "gateway").await;
    let at = |gateway: &Process| says == format!("through {}", gateway.address());
    site.gateways.iter().position(at).unwrap_or_else(|| panic!("{says:?}"))
}

async fn no_complaints(page: Page<'_>) {
    let console = page.console().await.unwrap();
    assert!(console.is_empty(), "{console:?}");
}

#[tokio::test]
async fn a_row_appears_in_its_panel_whether_by_button_or_by_sql_and_a_violation_is_heard() {
    let site = Site::start().await.unwrap();
    let browser = Browser::start(&[]).await.unwrap();
    let page = open(&browser, &site).await;
    page.until("document.getElementById('sound').dataset.state === 'on'", SOON).await.unwrap();

    for panel in ["profiles", "sensors", "violations"] {
        page.click(&format!("#{panel} .write")).await.unwrap();
        page.until(&rows(panel, 1), SOON).await.unwrap();
        page.until(&says(&format!("#{panel} .said"), "Its change was here"), SOON).await.unwrap();
    }
    // Only the violation rang.
    page.until("document.getElementById('sound').dataset.played === '1'", SOON).await.unwrap();

    site.execute(
        "insert into profiles(full_name, email) values ('Ada Lovelace', 'ada@example.com');
         insert into sensor_readings(sensor_id, value) values ('sensor1', 25.5)",
    )
    .await
    .unwrap();
    page.until(&rows("profiles", 2), SOON).await.unwrap();
    page.until(&rows("sensors", 2), SOON).await.unwrap();
    page.until(&says("#profiles li.row .title", "Ada Lovelace"), SOON).await.unwrap();
    page.until(&says("#sensors li.row .figure", "25.5"), SOON).await.unwrap();
    assert_eq!(page.evaluate("document.getElementById('sound').dataset.played").await.unwrap(), "1");

    // What comes sooner belongs to the same burst, and a burst rings once.
    sleep(Duration::from_millis(300)).await;
    site.execute("insert into violation_humandetections(camera_id) values (42)").await.unwrap();
    page.until(&rows("violations", 2), SOON).await.unwrap();
    page.until(&says("#violations li.row .title", "Camera 42"), SOON).await.unwrap();
    page.until("document.getElementById('sound').dataset.played === '2'", SOON).await.unwrap();

    page.until("document.getElementById('received').textContent === '6'", SOON).await.unwrap();
    assert_eq!((&*text(page, "resumed").await, &*text(page, "resets").await), ("0", "0"));
    no_complaints(page).await;
}

#[tokio::test]
async fn the_page_resumes_at_the_other_gateway_with_no_row_twice_or_missing() {
    let mut site = Site::start().await.unwrap();
    let browser = Browser::start(&[]).await.unwrap();
    let page = open(&browser, &site).await;
    page.evaluate(WATCH_STATES).await.unwrap();
    let first = serving(page, &site).await;
    // The page keeps 200 rows: that is 10 s.
    let writer = Writer::start(site.database_url(), Duration::from_millis(50));
    page.until("document.querySelectorAll('#sensors li.row').length >= 20", SOON).await.unwrap();

    site.gateways[first].kill9().unwrap();
    page.until(&format!("{LIVE} && {}", says("#resumed", "1")), SOON).await.unwrap();
    assert_eq!(serving(page, &site).await, 1 - first);
    let at = writer.written();
    eventually("some more rows are written", SOON, async || {
        if writer.written() > at + 10 { Ok(()) } else { Err(writer.written()) }
    })
    .await;
    let last = writer.stop().await.unwrap();
    assert!(last <= 200, "the page has forgotten some of {last} rows: this machine is too slow for this test");

    page.until(&rows("sensors", last), SOON).await.unwrap();
    let shown = page
        .evaluate(
            "[...document.querySelectorAll('#sensors li.row')].reverse().map((row) =>
                 [Number(row.dataset.cursor.split('.')[1]), row.querySelector('.figure').textContent])",
        )
        .await
        .unwrap();
    let expected: Vec<Value> = (1..=last).map(|number| json!([number, number.to_string()])).collect();
    assert_eq!(shown, json!(expected));
    page.until(&says("#received", &last.to_string()), SOON).await.unwrap();
    assert_eq!((&*text(page, "resumed").await, &*text(page, "resets").await), ("1", "0"));
    assert_eq!(page.evaluate("document.querySelectorAll('li.mark.gap').length").await.unwrap(), 0);
    let states = page.evaluate("window.states").await.unwrap();
    assert_eq!(states, json!(["live", "reconnecting", "open", "live"]));
}

#[tokio::test]
async fn the_page_says_truthfully_how_things_are() {
    let mut site = Site::start().await.unwrap();
    let browser = Browser::start(&[]).await.unwrap();
    let page = open(&browser, &site).await;
    page.click("#sensors .write").await.unwrap();
    page.until(&rows("sensors", 1), SOON).await.unwrap();

    // Nobody is there: it does not pretend, and a row that is not stored is not called stored.
    site.gateways.iter_mut().for_each(|gateway| gateway.kill9().unwrap());
    page.until("document.getElementById('status').dataset.state === 'reconnecting'", SOON).await.unwrap();
    page.evaluate(WATCH_STATES).await.unwrap();
    page.click("#sensors .write").await.unwrap();
    page.until(&says("#sensors .said.wrong", "Nothing was stored"), SOON).await.unwrap();
    site.execute("insert into sensor_readings(sensor_id, value) values ('sensor1', 99)").await.unwrap();
    assert_eq!(page.evaluate("window.states").await.unwrap(), json!(["reconnecting"]));
    page.until(&rows("sensors", 1), SOON).await.unwrap();

    // They are back, and know nothing: what was missed comes from Redis.
    for gateway in &mut site.gateways {
        gateway.restart().unwrap();
        gateway.until_ready().await.unwrap();
    }
    page.until(&format!("{LIVE} && {}", rows("sensors", 2)), SOON).await.unwrap();
    page.until(&says("#sensors li.row .delay", "caught up"), SOON).await.unwrap();
    assert_eq!((&*text(page, "resumed").await, &*text(page, "resets").await), ("1", "0"));

    // The listener dies: from then on something may be missing, and the page says where.
    site.listeners[0].kill9().unwrap();
    site.listeners[0].restart().unwrap();
    page.until("document.getElementById('status').dataset.state === 'reset'", SOON).await.unwrap();
    page.until(&says("#resets", "1"), SOON).await.unwrap();
    for panel in ["violations", "profiles", "sensors"] {
        page.until(&format!("document.querySelectorAll('#{panel} li.mark.gap').length === 1"), SOON).await.unwrap();
    }
    page.click("#sensors .write").await.unwrap();
    page.until(&rows("sensors", 3), SOON).await.unwrap();
    page.until(LIVE, SOON).await.unwrap();
}

/// Pictures go to the folder in ROWCAST_SCREENSHOTS, if that is set.
#[tokio::test]
async fn the_page_fits_a_phone_and_a_wide_screen_in_light_and_in_dark() {
    let mut site = Site::start().await.unwrap();
    let browser = Browser::start(&[]).await.unwrap();
    let page = open(&browser, &site).await;
    let folder = tempfile::tempdir().unwrap();
    let into = std::env::var_os("ROWCAST_SCREENSHOTS").map_or_else(|| folder.path().to_owned(), PathBuf::from);
    let look = async |name: &str| {
        for (width, height) in [(360, 740), (820, 1180), (1600, 900)] {
            page.resize(width, height).await.unwrap();
            for scheme in ["light", "dark"] {
                page.color_scheme(scheme).await.unwrap();
                let path = into.join(format!("{name}-{width}-{scheme}.png"));
                page.screenshot(&path, true).await.unwrap();
            }
            let wider = page.evaluate("document.documentElement.scrollWidth - innerWidth").await.unwrap();
            assert!(wider.as_i64() <= Some(0), "{name}: {wider} pixels wider than a screen of {width}");
        }
    };
    look("empty").await;
    for _ in 0..3 {
        for panel in ["violations", "profiles", "sensors"] {
            page.click(&format!("#{panel} .write")).await.unwrap();
            page.until(&says(&format!("#{panel} .said"), "Its change was here"), SOON).await.unwrap();
        }
    }
    let long = "x".repeat(3000);
    site.execute(&format!(
        "insert into violation_humandetections(camera_id, violation_image) values (7, '/media/{long}.jpg');
         insert into profiles(full_name, email) values ('{long}', 'Ada Lovelace {long}');
         update profiles set email = 'new@example.com' where id = 1;
         delete from profiles where id = 2"
    ))
    .await
    .unwrap();
    page.until(&rows("violations", 4), SOON).await.unwrap();
    page.until(&rows("profiles", 6), SOON).await.unwrap();
    look("rows").await;
    page.click("#sensors li.row summary").await.unwrap();
    page.click("#profiles li.row summary").await.unwrap();
    site.listeners[0].kill9().unwrap();
    site.listeners[0].restart().unwrap();
    page.until("document.getElementById('status').dataset.state === 'reset'", SOON).await.unwrap();
    look("reset").await;
    site.gateways.iter_mut().for_each(|gateway| gateway.kill9().unwrap());
    page.until("document.getElementById('status').dataset.state === 'reconnecting'", SOON).await.unwrap();
    page.click("#sensors .write").await.unwrap();
    page.until(&says("#sensors .said.wrong", "Nothing was stored"), SOON).await.unwrap();
    look("reconnecting").await;
}
