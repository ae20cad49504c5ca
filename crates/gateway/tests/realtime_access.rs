//! Who a client of Supabase is, over the life of its channels: a token, another one, none any more.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{Router, extract::State, http::HeaderMap, response::IntoResponse};
use serde_json::{Value, json};
use support::{
    Client, TestGateway,
    supabase::{
        TWO, config, ids, is_quiet, join, log, orders, reason, show, subscribed, token, with_token, with_tokens,
    },
};
use tokio_tungstenite::tungstenite::Error;

fn refunds() -> Value {
    json!({"event": "*", "schema": "public", "table": "refunds"})
}

fn schema() -> Value {
    json!({"event": "*", "schema": "public"})
}

/// The end of a channel that its client may not have any more; why.
async fn revoked(client: &mut Client, topic: &str) -> String {
    let system = client.json().await;
    assert_eq!(
        (&system[2], &system[3], &system[4]["status"]),
        (&json!(topic), &json!("system"), &json!("error")),
        "{system}"
    );
    assert_eq!(client.json().await, json!(["1", "1", topic, "phx_close", {}]));
    system[4]["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn who_signs_out_has_what_the_connection_came_with_and_no_more() {
    let (gateway, _secret) = with_tokens(&[]).await;
    let mut feed = log(&gateway, &["public.orders", "public.refunds"]).await;
    let anonymous = token(&json!({"topics": ["public.orders"]}));
    let user = token(&json!({"topics": ["public.*"], "broadcast": ["room"], "sub": "ada"}));
    for (apikey, signed_out) in [
        (&*anonymous, Some(&*anonymous)),
        (&anonymous, Some("sb_publishable_x")),
        (&anonymous, None),
        ("any-key", Some("any-key")),
        ("any-key", None),
    ] {
        let mut client = gateway.connect(&format!("/realtime/v1/websocket?vsn=2.0.0&apikey={apikey}")).await;
        for (channel, bindings) in [
            ("realtime:orders", vec![orders("*")]),
            ("realtime:refunds", vec![refunds()]),
            ("realtime:schema", vec![schema()]),
            ("realtime:room", vec![]),
        ] {
            let reply = join(&mut client, channel, &with_token(config(&bindings), &user)).await;
            assert_eq!(reply[4]["status"], "ok", "{reply}");
            if !bindings.is_empty() {
                subscribed(&mut client).await;
            }
        }
        show(&mut client, "realtime:refunds", signed_out).await;
        assert!(revoked(&mut client, "realtime:refunds").await.starts_with("Unauthorized: "));
        show(&mut client, "realtime:room", signed_out).await;
        assert!(revoked(&mut client, "realtime:room").await.starts_with("Unauthorized: "));
        show(&mut client, "realtime:schema", signed_out).await;
        show(&mut client, "realtime:orders", signed_out).await;
        if apikey == anonymous {
            // It comes back with the tables that there are for it now.
            let error = client.json().await;
            assert_eq!((&error[2], &error[3]), (&json!("realtime:schema"), &json!("phx_error")), "{error}");
            assert!(error[4]["reason"].as_str().unwrap().starts_with("TablesChanged: "), "{error}");
            ids(&join(&mut client, "realtime:schema", &config(&[schema()])).await);
            subscribed(&mut client).await;
        } else {
            for channel in ["realtime:schema", "realtime:orders"] {
                let why = revoked(&mut client, channel).await;
                assert!(why.starts_with("Unauthorized: no token came"), "{why}");
            }
        }
        feed.insert("public.refunds", r#"{"id":1}"#).await;
        feed.insert("public.orders", r#"{"id":2}"#).await;
        if apikey == anonymous {
            for _ in 0..2 {
                assert_eq!(client.json().await[4]["data"]["record"]["id"], 2);
            }
        }
        assert!(is_quiet(&mut client).await);
    }
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn who_signs_in_on_a_channel_of_a_whole_schema_gets_the_tables_that_are_his_then() {
    let (gateway, _secret) = with_tokens(&[]).await;
    let mut feed = log(&gateway, &["public.orders", "public.refunds"]).await;
    let anonymous = token(&json!({"topics": ["public.orders"]}));
    let user = token(&json!({"topics": ["public.*"]}));
    let mut client = gateway.connect(&format!("/realtime/v1/websocket?vsn=2.0.0&apikey={anonymous}")).await;
    for (channel, binding) in [("realtime:schema", schema()), ("realtime:orders", orders("*"))] {
        ids(&join(&mut client, channel, &with_token(config(&[binding]), &anonymous)).await);
        subscribed(&mut client).await;
    }
    show(&mut client, "realtime:schema", Some(&user)).await;
    show(&mut client, "realtime:orders", Some(&user)).await;
    let error = client.json().await;
    assert_eq!((&error[2], &error[3]), (&json!("realtime:schema"), &json!("phx_error")), "{error}");
    ids(&join(&mut client, "realtime:schema", &with_token(config(&[schema()]), &user)).await);
    subscribed(&mut client).await;
    show(&mut client, "realtime:schema", Some(&user)).await;
    feed.insert("public.refunds", r#"{"id":1}"#).await;
    let change = client.json().await;
    assert_eq!((&change[2], &change[4]["data"]["table"]), (&json!("realtime:schema"), &json!("refunds")), "{change}");
    assert!(is_quiet(&mut client).await);
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_connection_whose_own_token_has_expired_ends_when_it_is_needed_again() {
    let (gateway, _secret) = with_tokens(&[]).await;
    let mut feed = log(&gateway, &["public.orders"]).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let bearer = format!("Bearer {}", token(&json!({"topics": ["public.orders"], "exp": now + 2})));
    let mut client = Client::connect(gateway.address, TWO, &[("authorization", &bearer)]).await.unwrap();
    ids(&join(&mut client, "realtime:orders", &config(&[orders("*")])).await);
    subscribed(&mut client).await;
    // Another channel has a token of its own, and is not to suffer.
    let user = token(&json!({"topics": ["public.*"]}));
    ids(&join(&mut client, "realtime:own", &with_token(config(&[orders("*")]), &user)).await);
    subscribed(&mut client).await;
    assert!(revoked(&mut client, "realtime:orders").await.starts_with("Unauthorized: the token has expired"));
    for _ in 0..2 {
        let refused = join(&mut client, "realtime:orders", &config(&[orders("*")])).await;
        assert!(reason(&refused).starts_with("Unauthorized: the token of the connection has expired"), "{refused}");
    }
    feed.insert("public.orders", r#"{"id":1}"#).await;
    assert_eq!(client.json().await[2], "realtime:own");
    client.send(r#"["1","5","realtime:own","phx_leave",{}]"#).await;
    assert_eq!(
        (client.json().await[3].clone(), client.json().await[3].clone()),
        (json!("phx_reply"), json!("phx_close"))
    );
    let refused = join(&mut client, "realtime:orders", &config(&[orders("*")])).await;
    assert!(reason(&refused).starts_with("Unauthorized: the token of the connection has expired"), "{refused}");
    assert_eq!(client.closed().await, (4401, "the token has expired: connect with a fresh one".into()));
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_fresh_token_on_every_channel_is_no_flood_and_more_than_that_is() {
    let (gateway, _secret) = with_tokens(&["--max-messages-per-s", "50"]).await;
    let mut feed = log(&gateway, &["public.orders"]).await;
    let mut client = gateway.connect(TWO).await;
    let tokens = ["a", "b", "c"].map(|sub| token(&json!({"topics": ["public.*"], "sub": sub})));
    let channel = |n: usize| format!("realtime:{n}");
    for n in 0..50 {
        ids(&join(&mut client, &channel(n), &with_token(config(&[orders("*")]), &tokens[0])).await);
        subscribed(&mut client).await;
    }
    // As a client refreshes it: on all at once. Its other messages are not in its way.
    for n in 0..50 {
        show(&mut client, &channel(n), Some(&tokens[1])).await;
    }
    feed.insert("public.orders", r#"{"id":1}"#).await;
    for _ in 0..50 {
        assert_eq!(client.json().await[3], "postgres_changes");
    }
    // Tokens without end, and those of no channel, are messages as others are.
    for n in 0..400 {
        let channel = if n % 2 == 0 { "realtime:0" } else { "realtime:none" };
        show(&mut client, channel, Some(&tokens[2])).await;
    }
    let last = json!([null, "h", "phoenix", "heartbeat", {}]).to_string();
    client.send(&last).await;
    let (mut limited, mut message) = (HashMap::new(), client.json().await);
    while message[1] != "h" {
        if reason(&message).starts_with("RateLimited: more than 50 messages a second") {
            *limited.entry(message[2].to_string()).or_insert(0) += 1;
        }
        message = client.json().await;
    }
    assert!(limited.values().all(|count| *count > 50) && limited.len() == 2, "{limited:?}");
    gateway.shutdown.cancel();
}

/// An application that knows its users by the token that they bring, or by a cookie.
#[derive(Clone, Default)]
struct Application(Arc<Known>);

#[derive(Default)]
struct Known {
    users: Mutex<HashMap<String, (u16, Value)>>,
    asked: AtomicUsize,
}

impl Application {
    /// Its address, in the settings of a gateway.
    async fn start(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(who).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        format!("[auth]\nurl = \"http://{address}/who\"\norigins = [\"https://app.example.com\"]\n")
    }

    fn answers(&self, user: &str, status: u16, claims: Value) {
        self.0.users.lock().unwrap().insert(user.into(), (status, claims));
    }

    fn asked(&self) -> usize {
        self.0.asked.swap(0, Ordering::SeqCst)
    }
}

async fn who(State(Application(known)): State<Application>, headers: HeaderMap) -> impl IntoResponse {
    known.asked.fetch_add(1, Ordering::SeqCst);
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let user = header("authorization").strip_prefix("Bearer ").unwrap_or(header("cookie"));
    let answer = known.users.lock().unwrap().get(user).cloned().unwrap_or((401, json!({})));
    (axum::http::StatusCode::from_u16(answer.0).unwrap(), answer.1.to_string())
}

#[tokio::test]
async fn the_application_decides_who_joins_and_who_stays() {
    let application = Application::default();
    application.answers("ada", 200, json!({"topics": ["public.*"], "broadcast": ["room"]}));
    application.answers("bob", 200, json!({"topics": ["public.orders"]}));
    application.answers("eve", 403, json!({}));
    application.answers("session=1", 200, json!({"topics": ["public.orders"]}));
    let gateway = TestGateway::start(&[], &application.start().await).await;
    let mut feed = log(&gateway, &["public.orders", "public.refunds"]).await;

    // It knows nobody without a token, who may connect all the same, and hears when he joins what is wrong.
    let mut client = gateway.connect(TWO).await;
    for (user, named) in [
        (None, "Unauthorized: no token came"),
        (Some("any-key"), "Unauthorized: no token came"),
        (Some("stranger"), "Unauthorized: the application does not know you"),
        (Some("eve"), "Forbidden: the application does not let you in"),
        (Some("bob"), "Unauthorized: the token's claim 'topics' does not cover 'public.refunds'"),
    ] {
        let mut payload = config(&[refunds()]);
        payload["access_token"] = json!(user);
        let refused = join(&mut client, "realtime:refunds", &payload).await;
        assert!(reason(&refused).starts_with(named), "{user:?}: {refused}");
    }
    for (channel, bindings) in
        [("realtime:refunds", vec![refunds()]), ("realtime:orders", vec![orders("*")]), ("realtime:room", vec![])]
    {
        let reply = join(&mut client, channel, &with_token(config(&bindings), "ada")).await;
        assert_eq!(reply[4]["status"], "ok", "{reply}");
        if !bindings.is_empty() {
            subscribed(&mut client).await;
        }
    }
    application.asked();

    // It is away: what was decided before goes on. It is asked once for all channels.
    application.answers("carl", 500, json!({}));
    let channels = ["realtime:refunds", "realtime:orders", "realtime:room"];
    for channel in channels {
        show(&mut client, channel, Some("carl")).await;
    }
    assert!(is_quiet(&mut client).await);
    assert_eq!(application.asked(), 1);
    feed.insert("public.refunds", r#"{"id":1}"#).await;
    assert_eq!(client.json().await[4]["data"]["table"], "refunds");
    // Another user, who may less.
    for channel in channels {
        show(&mut client, channel, Some("bob")).await;
    }
    let why = revoked(&mut client, "realtime:refunds").await;
    assert_eq!(why, "Unauthorized: the token's claim 'topics' does not cover 'public.refunds'");
    let why = revoked(&mut client, "realtime:room").await;
    assert_eq!(why, "Unauthorized: the token's claim 'broadcast' does not cover 'room'");
    assert!(is_quiet(&mut client).await);
    assert_eq!(application.asked(), 1);
    show(&mut client, "realtime:orders", Some("eve")).await;
    assert!(revoked(&mut client, "realtime:orders").await.starts_with("Forbidden: the application does not let you"));

    // A session counts where no token comes, and is what is left to who signs out.
    let mut client = Client::connect(gateway.address, TWO, &[("cookie", "session=1")]).await.unwrap();
    ids(&join(&mut client, "realtime:orders", &with_token(config(&[orders("*")]), "any-key")).await);
    subscribed(&mut client).await;
    ids(&join(&mut client, "realtime:refunds", &with_token(config(&[refunds()]), "ada")).await);
    subscribed(&mut client).await;
    for channel in ["realtime:orders", "realtime:refunds"] {
        show(&mut client, channel, Some("any-key")).await;
    }
    let why = revoked(&mut client, "realtime:refunds").await;
    assert_eq!(why, "Unauthorized: the token's claim 'topics' does not cover 'public.refunds'");
    feed.insert("public.orders", r#"{"id":2}"#).await;
    assert_eq!(client.json().await[4]["data"]["record"]["id"], 2);
    assert!(is_quiet(&mut client).await);

    // Over HTTP too, where this client sends the apikey as a token.
    application.answers("session=3", 200, json!({"broadcast": ["room"]}));
    let post = async |headers: &str| {
        let head = format!("POST /realtime/v1/api/broadcast/room/events/e HTTP/1.1\r\nHost: {}", gateway.address);
        gateway.request(&format!("{head}\r\nConnection: close\r\nContent-Length: 2\r\n{headers}\r\n\r\n{{}}")).await.0
    };
    assert_eq!(post("Cookie: session=3\r\napikey: any-key\r\nAuthorization: Bearer any-key").await, 202);
    assert_eq!(post("Cookie: session=1\r\napikey: any-key\r\nAuthorization: Bearer any-key").await, 403);
    assert_eq!(post("Cookie: session=3\r\napikey: any-key\r\nAuthorization: Bearer stranger").await, 401);
    assert_eq!(post("apikey: any-key\r\nAuthorization: Bearer ada").await, 202);

    // Whom it shuts out does not even connect, and nobody does while it is away.
    for (status, of_upgrade) in [(403, 403), (500, 503)] {
        application.answers("session=2", status, json!({}));
        let refused = Client::connect(gateway.address, TWO, &[("cookie", "session=2")]).await.map(drop);
        let Err(Error::Http(response)) = refused else { panic!("{refused:?}") };
        assert_eq!(response.status().as_u16(), of_upgrade);
    }
    gateway.shutdown.cancel();
}
