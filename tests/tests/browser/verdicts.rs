//! "Why did I not get it?", asked on a phone: each verdict, of real clients of every kind.

use e2e::{
    browser::{Browser, Page},
    postgres::PostgresServer,
    process::Process,
    redis::RedisServer,
    site::SOON,
    socket::{Frame, Socket},
};
use serde_json::json;

use crate::inspect::{TOKEN, fits, says, schema_of, tab, type_into};

const TABLES: &str = "
    create table orders (id int primary key, customer text);
    create table invoices (id numeric primary key, total numeric);
    select rowcast.watch('orders'), rowcast.watch('invoices');";
/// With it who has no token may subscribe to nothing.
const AUTH: &str = "[auth.jwt]\nalgorithms = [\"HS256\"]\naudience = \"a\"\nissuer = \"b\"\nsecret_file = ";

/// Until a client has been told something with these words.
async fn until(socket: &mut Socket, words: &str) {
    loop {
        match socket.next().await.unwrap() {
            Frame::Text(text) if text.contains(words) => return,
            Frame::Close(code, reason) => panic!("closed with {code} {reason}, and not {words}"),
            _ => {}
        }
    }
}

async fn native(gateway: &Process, subscribe: &[String]) -> Socket {
    let mut socket = Socket::open(gateway.address(), "/rowcast").await.unwrap();
    for rest in subscribe {
        socket.send(&format!(r#"{{"type":"subscribe",{rest}}}"#)).await.unwrap();
        until(&mut socket, "subscribed").await;
    }
    socket
}

/// The page of a gateway's inspector.
async fn let_in<'a>(browser: &'a Browser, gateway: &Process) -> Page<'a> {
    let page = browser.open(&format!("http://{}/inspect", gateway.address())).await.unwrap();
    page.resize(360, 780).await.unwrap();
    page.until("!document.getElementById('login').hidden", SOON).await.unwrap();
    type_into(page, "token", TOKEN).await;
    page.click("#login button").await.unwrap();
    page.until("document.querySelectorAll('#known-topics option').length === 2", SOON).await.unwrap();
    page
}

/// The connection that came last.
async fn newest(page: Page<'_>) -> String {
    let ask = format!(
        "fetch('/inspect/api/connections?order=new&limit=1', {{ headers: {{ authorization: 'Bearer {TOKEN}' }} }})
             .then((answer) => answer.json()).then((answer) => answer.connections[0].id)"
    );
    page.evaluate(&ask).await.unwrap().as_str().unwrap().to_owned()
}

/// Asks about the last change of a row, and is told this.
async fn why(page: Page<'_>, connection: &str, [topic, key]: [&str; 2], [state, words]: [&str; 2]) {
    tab(page, "why").await;
    for (field, text) in [("connection", connection), ("why-topic", topic), ("why-key", key)] {
        type_into(page, field, text).await;
    }
    page.evaluate("document.getElementById('answer').replaceChildren()").await.unwrap();
    page.click("#ask button.main").await.unwrap();
    page.until(&format!("document.querySelector('#answer .verdict')?.dataset.state === '{state}'"), SOON)
        .await
        .unwrap();
    page.until(&says("#answer .verdict", words), SOON).await.unwrap();
    fits(page, &format!("verdict-{state}")).await;
}

#[tokio::test]
async fn each_verdict_is_told_on_a_phone() {
    let (postgres, redis) = tokio::try_join!(PostgresServer::shared(), RedisServer::start()).unwrap();
    let database = schema_of(&postgres, TABLES).await;
    let url = postgres.url(&database);
    let _listener = Process::listener(&url, &redis.url(), &[]).unwrap().ready().await.unwrap();
    let flags = ["--inspect", "--inspect-token", TOKEN];
    let gateway = Process::gateway(&url, &redis.url(), &flags).unwrap().ready().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let [secret, config] = ["secret", "rowcast.toml"].map(|name| folder.path().join(name).display().to_string());
    std::fs::write(&secret, "a secret of more than thirty-two bytes, for tests").unwrap();
    std::fs::write(&config, format!("{AUTH}\"{secret}\"\n")).unwrap();
    let flags = [&flags[..], &["--config", &config]].concat();
    let closed = Process::gateway(&url, &redis.url(), &flags).unwrap().ready().await.unwrap();

    let browser = Browser::start(&[]).await.unwrap();
    let page = let_in(&browser, &gateway).await;
    let conflated = r#""topic":"public.orders","conflate":{"every_ms":60000}"#.to_owned();
    let mut board = native(&gateway, &[conflated]).await;
    let board_id = newest(page).await;
    let mut channel = Socket::open(gateway.address(), "/realtime/v1/websocket?vsn=1.0.0").await.unwrap();
    let binding = json!({ "event": "DELETE", "schema": "public", "table": "orders" });
    let payload = json!({ "config": { "postgres_changes": [binding] } });
    let join = json!({ "topic": "realtime:x", "event": "phx_join", "payload": payload, "ref": "1", "join_ref": "1" });
    channel.send(&join.to_string()).await.unwrap();
    until(&mut channel, "Subscribed to PostgreSQL").await;
    let channel_id = newest(page).await;
    let widgets: Vec<String> = (0..14).map(|n| format!(r#""id":"widget-{n}","topic":"public.invoices""#)).collect();
    let mut many = native(&gateway, &widgets).await;
    let many_id = newest(page).await;

    let insert = "insert into orders values (1, 'ada')";
    postgres.execute(&database, insert).await.unwrap();
    until(&mut board, "ada").await;
    let inserts = "insert into orders values (2, 'bob');
                   insert into invoices values (18446744073709551616, 1), (18446744073709551617, 10.50)";
    postgres.execute(&database, inserts).await.unwrap();
    until(&mut many, "10.50").await;
    why(page, &many_id, ["public.invoices", "18446744073709551617"], ["sent", "each of its 14 subscriptions"]).await;
    page.until(&says("#answer .change pre", "{\"id\":18446744073709551617, \"total\":10.50}"), SOON).await.unwrap();
    why(page, &channel_id, ["public.orders", "2"], ["filtered", "did not ask for this kind of change"]).await;
    why(page, &board_id, ["public.orders", "1"], ["coalesced", "at most one frame a row in"]).await;
    why(page, &board_id, ["public.orders", "2"], ["not_sent_yet", "held back to be joined"]).await;

    // Of one that is open in the list all subscriptions are shown.
    tab(page, "clients").await;
    page.click("[name=order][value=new]").await.unwrap();
    page.until(&says("#list .client:first-child", "14 subscriptions"), SOON).await.unwrap();
    page.click("#list .client:first-child summary").await.unwrap();
    page.until("document.querySelectorAll('#list .client:first-child .sub').length === 14", SOON).await.unwrap();

    let page = let_in(&browser, &closed).await;
    let _stranger = native(&closed, &[]).await;
    why(page, &newest(page).await, ["public.orders", "2"], ["denied", "has shown no token yet"]).await;
}
