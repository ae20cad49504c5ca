//! Each recipe with its own trigger and its own JavaScript, from the gateway's own host.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use e2e::{
    browser::{Browser, FOLDER, Line, Page},
    eventually::eventually,
    nginx::Nginx,
    process::Process,
    site::{SOON, Site},
};
use serde_json::{Value, json};

use crate::notified::Notified;

pub const PAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../sql/examples/pages");
const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../clients/js/src");
const SOUNDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/gateway/src/web/assets");

/// The application of a recipe: it serves its page and its sounds, and what else is asked of its
/// host is the gateway's.
pub async fn application(gateway: &Process, folder: &Path) -> Nginx {
    let locations = format!(
        "types {{ text/html html; text/javascript js; audio/wav wav; audio/mpeg mp3; }}
         charset utf-8;
         location /recipe/ {{ alias {}/; }}
         location = /favicon.ico {{ return 204; }}
         location /static/ {{ rewrite ^ /ping.wav break; root {SOUNDS}; }}",
        folder.display()
    );
    Nginx::start_with(&[gateway.address()], &locations).await.unwrap()
}

/// Opens a recipe's page, and waits until the gateway has all its sockets: the page does not tell.
async fn open<'a>(browser: &'a Browser, application: &Nginx, page: &str, gateway: &Process, sockets: f64) -> Page<'a> {
    let page = browser.open(&format!("http://{}/recipe/{page}", application.address())).await.unwrap();
    eventually("the page's sockets are open", SOON, async || {
        let open = gateway.metric(r#"connections{door="plain"}"#).await.unwrap_or_default();
        if open == sockets { Ok(()) } else { Err(open) }
    })
    .await;
    page
}

/// The page's frames on the socket with this path, once there are as many as were notified.
async fn frames(page: Page<'_>, path: &str, count: usize) -> Vec<String> {
    eventually("all frames have come", SOON, async || {
        let sockets = page.sockets().await.unwrap();
        let frames: Vec<_> = sockets.into_iter().filter(|socket| socket.url.ends_with(path)).collect();
        match &frames[..] {
            [one] if one.frames.len() >= count => Ok(one.frames.clone()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

/// What the page has logged, once there is as much; no complaint may be on its console.
async fn logged(page: Page<'_>, count: usize) -> Vec<Vec<Value>> {
    let lines = eventually("all lines are on the console", SOON, async || {
        let mut lines = page.console().await.unwrap();
        // React advertises its tools there.
        lines.retain(|line| line.kind != "info");
        if lines.len() >= count { Ok(lines) } else { Err(lines) }
    })
    .await;
    assert!(lines.iter().all(|line: &Line| line.kind == "log"), "{lines:?}");
    lines.into_iter().map(|line| line.values).collect()
}

pub async fn played(page: Page<'_>, sound: &str, times: usize) {
    eventually("the sound was played", SOON, async || {
        let played = page.played().await.unwrap();
        if played == vec![sound; times] { Ok(()) } else { Err(played) }
    })
    .await;
}

#[tokio::test]
async fn a_violation_shows_on_the_page_of_the_one_table_recipe_and_is_heard() {
    let site = Site::start().await.unwrap();
    let browser = Browser::start(&[]).await.unwrap();
    let notified = Notified::on(&site, "human_detection_events").await;
    let gateway = &site.gateways[0];
    let application = application(gateway, Path::new(PAGES)).await;
    let page = open(&browser, &application, "violations_one_table.html", gateway, 1.0).await;

    site.execute(
        "insert into violation_humandetections(camera_id, violation_date, violation_time, violation_image)
         values (2, '2025-07-28', '15:00:00', '/media/Größe \"2\".jpg');
         update violation_humandetections set camera_id = 3",
    )
    .await
    .unwrap();

    assert_eq!(frames(page, "/ws/table/", 2).await, notified.payloads(2).await);
    let row = |camera: u64| {
        json!({"id": 1, "camera_id": camera, "violation_date": "2025-07-28", "violation_time": "15:00:00",
               "violation_image": "/media/Größe \"2\".jpg"})
    };
    assert_eq!(logged(page, 2).await, [[json!("new row:"), row(2)], [json!("new row:"), row(3)]]);
    played(page, "/static/ping.mp3", 2).await;
}

#[tokio::test]
async fn violations_of_three_tables_show_on_the_page_of_the_one_channel_recipe_and_are_heard() {
    let site = Site::start().await.unwrap();
    let browser = Browser::start(&[]).await.unwrap();
    let notified = Notified::on(&site, "violations_channel").await;
    let gateway = &site.gateways[1];
    let application = application(gateway, Path::new(PAGES)).await;
    let page = open(&browser, &application, "violations_one_channel.html", gateway, 1.0).await;

    let tables = ["violation_humandetections", "violation_lotodetections", "violation_ppedetections"];
    for (table, camera) in tables.iter().zip([1, 2, 3]) {
        site.execute(&format!("insert into {table}(camera_id) values ({camera})")).await.unwrap();
    }

    assert_eq!(frames(page, "/ws/violations/", 3).await, notified.payloads(3).await);
    for ((line, table), camera) in logged(page, 3).await.iter().zip(tables).zip([1, 2, 3]) {
        assert_eq!(line[0], format!("Violation from {table}:"));
        assert_eq!(line[1]["camera_id"], camera);
    }
    played(page, "/static/audio.wav", 3).await;
}

#[tokio::test]
async fn each_violation_shows_in_its_own_list_on_the_page_of_the_three_channels_recipe_and_is_heard() {
    let site = Site::start().await.unwrap();
    let browser = Browser::start(&[]).await.unwrap();
    let gateway = &site.gateways[0];
    let application = application(gateway, Path::new(PAGES)).await;
    let page = open(&browser, &application, "violations_three_channels.html", gateway, 3.0).await;

    let kinds = ["humans", "loto", "ppe"];
    let tables = ["violation_humandetections", "violation_lotodetections", "violation_ppedetections"];
    for ((kind, table), camera) in kinds.iter().zip(tables).zip([4, 5, 6]) {
        let notified = Notified::on(&site, &format!("{kind}_channel")).await;
        site.execute(&format!("insert into {table}(camera_id) values ({camera})")).await.unwrap();
        assert_eq!(frames(page, &format!("/ws/{kind}/"), 1).await, notified.payloads(1).await);
        let item = page.evaluate(&format!("document.querySelector('#{kind} li').textContent")).await.unwrap();
        assert!(item.as_str().is_some_and(|text| text.starts_with(&format!("camera {camera} at "))), "{item}");
    }
    let lines = logged(page, 3).await;
    let said: Vec<_> = lines.iter().map(|line| line[0].as_str().unwrap_or_default()).collect();
    assert_eq!(said, tables.map(|table| format!("Violation from {table}:")));
    played(page, "/static/audio.wav", 3).await;
}

#[tokio::test]
async fn every_insert_update_and_delete_shows_on_the_react_page_of_the_db_changes_recipe() {
    let site = Site::start().await.unwrap();
    let browser = Browser::start(&[]).await.unwrap();
    let notified = Notified::on(&site, "db_changes").await;
    let folder = tempfile::tempdir().unwrap();
    build_with_react(folder.path(), &std::fs::read_to_string(Path::new(PAGES).join("db_changes.js")).unwrap());
    let gateway = &site.gateways[0];
    let application = application(gateway, folder.path()).await;
    // useTableChanges is called twice: for profiles, and for registrations and roles.
    let page = open(&browser, &application, "db_changes.html", gateway, 2.0).await;
    page.until("document.querySelectorAll('.status').length === 2", SOON).await.unwrap();
    page.until("[...document.querySelectorAll('.status')].every((p) => p.textContent === 'connected')", SOON)
        .await
        .unwrap();

    site.execute(
        "insert into profiles(full_name, email) values ('Ada Lovelace', 'ada@example.com');
         insert into registrations(profile_id, event) values (1, 'Analytical Engine');
         insert into roles(profile_id, name) values (1, 'author');
         update profiles set email = 'ada@example.org';
         delete from profiles",
    )
    .await
    .unwrap();

    // The deleted profile takes its registration and its role along.
    let notified = notified.payloads(7).await;
    let both = eventually("all frames have come", SOON, async || {
        let frames: Vec<_> = page.sockets().await.unwrap().into_iter().map(|socket| socket.frames).collect();
        if frames.iter().all(|frames| frames.len() >= 7) { Ok(frames) } else { Err(frames) }
    })
    .await;
    assert_eq!(both, [notified.clone(), notified.clone()]);
    let changes: Vec<Value> = notified.iter().map(|payload| serde_json::from_str(payload).unwrap()).collect();
    let lines = logged(page, 7).await;
    for change in &changes {
        assert!(lines.contains(&vec![json!("change:"), change.clone()]), "{change} is not in {lines:?}");
    }
    let items = "[...document.querySelectorAll('#profiles li')].map((li) => li.textContent.split(' {')[0])";
    assert_eq!(page.evaluate(items).await.unwrap(), json!(["DELETE profiles", "UPDATE profiles", "INSERT profiles"]));
    page.until("document.querySelectorAll('#registrations-roles li').length === 4", SOON).await.unwrap();
}

#[tokio::test]
async fn a_posted_reading_shows_on_the_page_of_the_sensors_recipe() {
    let site = Site::start().await.unwrap();
    let browser = Browser::start(&[]).await.unwrap();
    let notified = Notified::on(&site, "sensor_updates").await;
    let gateway = &site.gateways[0];
    let application = application(gateway, Path::new(PAGES)).await;
    let page = open(&browser, &application, "sensors.html", gateway, 1.0).await;
    page.until("document.getElementById('status').textContent === 'Status: 🟢 Connected'", SOON).await.unwrap();

    // As the recipe posts it, and its answer.
    let answer = page
        .evaluate(
            "fetch('/api/sensors/', { method: 'POST', headers: { 'Content-Type': 'application/json' },
               body: JSON.stringify({ sensor_id: 'sensor1', value: 25.5, metadata: { unit: 'celsius', location: 'room1' } }) })
             .then(async (answer) => [answer.status, await answer.json()])",
        )
        .await
        .unwrap();
    assert_eq!(answer[0], 201);
    assert_eq!(answer[1]["message"], "Sensor reading created successfully");
    site.execute("insert into sensor_readings(sensor_id, value) values ('sensor2', 7)").await.unwrap();

    let frames = frames(page, "/ws/sensors/", 2).await;
    let wrapped: Vec<_> = notified.payloads(2).await.iter().map(|payload| format!(r#"{{"data":{payload}}}"#)).collect();
    assert_eq!(frames, wrapped);
    let lines = logged(page, 2).await;
    assert_eq!((&lines[0][0], &lines[0][1]["value"]), (&json!("sensor reading:"), &json!(25.5)));
    assert_eq!(lines[0][1]["id"], answer[1]["id"]);
    let items = "[...document.querySelectorAll('#readings li')].map((li) => li.textContent.split(' (')[0])";
    assert_eq!(page.evaluate(items).await.unwrap(), json!(["sensor2: 7", "sensor1: 25.5 celsius"]));
}

/// A page of table changes, as the recipe's front end is built; see the comment in db_changes.html.
pub fn build_with_react(into: &Path, script: &str) {
    std::fs::copy(Path::new(PAGES).join("db_changes.html"), into.join("db_changes.html")).unwrap();
    let modules = Path::new(FOLDER).join("node_modules");
    let mut esbuild = Command::new("node")
        .arg(modules.join("esbuild/bin/esbuild"))
        .args(["--bundle", "--sourcefile=db_changes.js"])
        .arg(format!("--outfile={}", into.join("db_changes.bundle.js").display()))
        .arg(format!("--alias:@rowcast/client/react={CLIENT}/react.js"))
        // That of the client's own tests would be another one.
        .arg(format!("--alias:react={}", modules.join("react").display()))
        .env("NODE_PATH", &modules)
        .current_dir(PAGES)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("Node.js is not installed: make test installs it");
    esbuild.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = esbuild.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
