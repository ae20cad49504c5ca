//! The recipes' own pages in the course of a day, as far as their code can take it, and the page of table changes on the
//! client's hooks beside it.

use std::{path::Path, time::Duration};

use e2e::{
    browser::{Browser, FOLDER, Page},
    eventually::eventually,
    nginx::Nginx,
    site::{SOON, Site},
};
use serde_json::Value;
use tokio::time::sleep;

use crate::{
    recipes::{PAGES, application, build_with_react, played},
    story,
};

/// How long the gateway, and Redis, are away.
const AWAY: Duration = Duration::from_secs(4);
/// Notes what the page says of its connection, whenever that changes.
const WITNESS: &str = "{
    const said = () => [...document.querySelectorAll('.status, #status')].map((it) => it.textContent).join();
    window.said = [[Date.now(), said()]];
    const look = () => window.said.at(-1)[1] === said() || window.said.push([Date.now(), said()]);
    new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true });
}";

/// A page, and where the number of a row is in what it logs.
struct Day<'a> {
    page: Page<'a>,
    number: &'static str,
    _application: Nginx,
}

impl<'a> Day<'a> {
    async fn begin(browser: &'a Browser, site: &Site, folder: &Path, name: &str, number: &'static str) -> Self {
        let application = application(&site.gateways[0], folder).await;
        let page = browser.open(&format!("http://{}/recipe/{name}", application.address())).await.unwrap();
        page.evaluate(WITNESS).await.unwrap();
        story::mark(page).await;
        Self { page, number, _application: application }
    }

    /// The rows that it has had, by their numbers, in the order in which they came.
    async fn rows(&self) -> Vec<u64> {
        let lines = self.page.console().await.unwrap();
        let values = lines.into_iter().filter(|line| line.kind == "log").map(|line| line.values[1].clone());
        let number = |value: Value| match value.pointer(self.number) {
            Some(Value::String(text)) => text.parse().unwrap(),
            other => other.and_then(Value::as_f64).unwrap() as u64,
        };
        values.map(number).collect()
    }

    async fn has(&self, expected: &[u64]) {
        eventually("the page has exactly these rows", SOON, async || {
            let rows = self.rows().await;
            if rows == expected { Ok(()) } else { Err((self.number, expected.to_vec(), rows)) }
        })
        .await;
    }

    async fn says(&self, words: &str, within: Duration) {
        let condition =
            format!("[...document.querySelectorAll('.status, #status')].every((it) => it.textContent === '{words}')");
        self.page.until(&condition, within).await.unwrap();
    }

    /// Whether it has said in this time that it is connected.
    async fn claimed(&self, from: f64, to: f64) -> bool {
        let said: Vec<(f64, String)> =
            serde_json::from_value(self.page.evaluate("window.said").await.unwrap()).unwrap();
        let ends = said.iter().skip(1).map(|(at, _)| *at).chain([f64::INFINITY]);
        let mut spans = said.iter().zip(ends);
        spans.any(|((at, words), end)| {
            end > from && *at < to && (words.contains("🟢") || words.split(',').any(|it| it == "connected"))
        })
    }
}

#[tokio::test]
async fn the_recipes_pages_show_every_row_while_their_sockets_live_and_say_when_they_do_not() {
    let mut site = Site::start().await.unwrap();
    let browser = Browser::start(&[]).await.unwrap();
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let recipe = format!("{PAGES}/db_changes.js");
    build_with_react(folders[0].path(), &std::fs::read_to_string(&recipe).unwrap());
    // Another import is all that it takes.
    let swapped = std::fs::read_to_string(&recipe).unwrap().replace("./useWebSocket.js", "@rowcast/client/react");
    build_with_react(folders[1].path(), &swapped);
    build_with_react(folders[2].path(), &std::fs::read_to_string(format!("{FOLDER}/db_changes.js")).unwrap());

    let pages = Path::new(PAGES);
    let violations = Day::begin(&browser, &site, pages, "violations_one_table.html", "/camera_id").await;
    let sensors = Day::begin(&browser, &site, pages, "sensors.html", "/value").await;
    let [theirs, ours, resuming] = {
        let begin = async |at: usize| {
            Day::begin(&browser, &site, folders[at].path(), "db_changes.html", "/data/full_name").await
        };
        [begin(0).await, begin(1).await, begin(2).await]
    };
    let all = [&violations, &sensors, &theirs, &ours, &resuming];
    let (react, reconnecting) = ([&theirs, &ours, &resuming], [&theirs, &ours]);
    let gateway_has = async |site: &Site, sockets: [f64; 2]| {
        eventually("the pages are connected", story::RECONNECTED, async || {
            let open = [r#"connections{door="plain"}"#, r#"connections{door="native"}"#];
            let open = [
                site.gateways[0].metric(open[0]).await.unwrap_or_default(),
                site.gateways[0].metric(open[1]).await.unwrap_or_default(),
            ];
            if open == sockets { Ok(()) } else { Err(open) }
        })
        .await;
    };
    let write = async |site: &Site, number: u64| {
        let row = format!(
            "insert into violation_humandetections(camera_id) values ({number});
             insert into sensor_readings(sensor_id, value) values ('sensor1', {number});
             insert into profiles(full_name, email) values ('{number}', '')"
        );
        site.execute(&row).await.unwrap();
    };
    gateway_has(&site, [6.0, 1.0]).await;
    sensors.says("Status: 🟢 Connected", SOON).await;
    for day in react {
        day.says("connected", SOON).await;
    }
    write(&site, 1).await;
    for day in all {
        day.has(&[1]).await;
    }

    played(violations.page, "/static/ping.mp3", 1).await;

    // Redis restarts: nobody notices.
    site.redis.kill().unwrap();
    write(&site, 2).await;
    sleep(AWAY).await;
    site.redis.restart(true).await.unwrap();
    write(&site, 3).await;
    for day in all {
        day.has(&[1, 2, 3]).await;
        story::was_not_reloaded(day.page).await;
    }
    gateway_has(&site, [6.0, 1.0]).await;

    played(violations.page, "/static/ping.mp3", 3).await;

    // The gateway dies. Who reconnects goes on; what was written meanwhile is there for who has a cursor.
    let died = story::now_ms();
    site.gateways[0].kill9().unwrap();
    write(&site, 4).await;
    sensors.says("Status: 🔴 Disconnected", SOON).await;
    for day in react {
        day.says("disconnected", SOON).await;
    }
    sleep(AWAY).await;
    let back = story::now_ms();
    site.gateways[0].restart().unwrap();
    site.gateways[0].until_ready().await.unwrap();
    for day in react {
        day.says("connected", story::RECONNECTED).await;
        assert!(!day.claimed(died + 2_000.0, back).await, "it said that it was connected to a gateway that was dead");
    }
    gateway_has(&site, [4.0, 1.0]).await;
    write(&site, 5).await;
    resuming.has(&[1, 2, 3, 4, 5]).await;
    for day in reconnecting {
        day.has(&[1, 2, 3, 5]).await;
    }
    // The others were written to be loaded anew, and say so if they say anything.
    sensors.says("Status: 🔴 Disconnected", SOON).await;
    for day in [&violations, &sensors] {
        day.has(&[1, 2, 3]).await;
        day.page.reload().await.unwrap();
    }
    gateway_has(&site, [6.0, 1.0]).await;
    write(&site, 6).await;
    resuming.has(&[1, 2, 3, 4, 5, 6]).await;
    for day in reconnecting {
        day.has(&[1, 2, 3, 5, 6]).await;
    }
    for day in [&violations, &sensors] {
        day.has(&[1, 2, 3, 6]).await;
    }

    // They sleep. Chromium closes the sockets of a page that was frozen, and what came meanwhile is gone with them: who has
    // a cursor gets it all the same, who reconnects goes on, and the others are loaded anew.
    for day in all {
        day.page.freeze().await.unwrap();
    }
    write(&site, 7).await;
    sleep(story::NIGHT).await;
    for day in all {
        day.page.thaw().await.unwrap();
    }
    resuming.has(&[1, 2, 3, 4, 5, 6, 7]).await;
    for day in react {
        day.says("connected", story::RECONNECTED).await;
        story::was_not_reloaded(day.page).await;
    }
    eventually("the page has what came, or says that it is not connected", SOON, async || {
        let said = sensors.page.evaluate("document.getElementById('status').textContent").await.unwrap();
        let rows = sensors.rows().await;
        if said == "Status: 🔴 Disconnected" || rows.contains(&7) { Ok(()) } else { Err((said, rows)) }
    })
    .await;
    for day in [&violations, &sensors] {
        day.page.reload().await.unwrap();
    }
    gateway_has(&site, [6.0, 1.0]).await;
    write(&site, 8).await;
    resuming.has(&[1, 2, 3, 4, 5, 6, 7, 8]).await;
    let but_for_7 = async |day: &Day<'_>, expected: &[u64]| {
        eventually("the page has exactly these rows, and perhaps the seventh", SOON, async || {
            let mut rows = day.rows().await;
            let kept = rows.clone();
            rows.retain(|&number| number != 7);
            if rows == expected { Ok(()) } else { Err(kept) }
        })
        .await;
    };
    for day in reconnecting {
        but_for_7(day, &[1, 2, 3, 5, 6, 8]).await;
    }
    for day in [&violations, &sensors] {
        but_for_7(day, &[1, 2, 3, 6, 8]).await;
    }
    for day in react {
        story::was_not_reloaded(day.page).await;
    }
}
