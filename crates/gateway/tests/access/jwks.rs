//! How the public keys stay fresh, whatever becomes of who serves them.

use std::time::{Duration, Instant};

use axum::http::StatusCode;
use gateway::access::Access;
use protocol::ErrorCode;
use serde_json::json;
use tokio::net::TcpListener;

use crate::{
    issuer::{Key, Provider, access, access_by_url, claims, jwks_url},
    tokens::file,
};

async fn is_good(access: &Access, key: &Key) -> bool {
    access.verify(&key.token(&claims())).await.is_ok()
}

/// For up to 15 s.
async fn becomes_good(access: &Access, key: &Key) {
    let start = Instant::now();
    while !is_good(access, key).await {
        assert!(start.elapsed() < Duration::from_secs(15), "the key is still not taken");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_new_key_is_fetched_when_the_first_token_with_it_comes() {
    let (old, new) = (Key::p256("old"), Key::p256("new"));
    let provider = Provider::start(&[&old]).await;
    let access = access_by_url(&provider.url).await;
    assert!(is_good(&access, &old).await);
    provider.serve(&[&new]);
    assert!(is_good(&access, &new).await);
    assert!(!is_good(&access, &old).await, "what the set no longer has is forgotten");
}

#[tokio::test]
async fn tokens_with_unknown_keys_cannot_make_the_gateway_hammer_the_provider() {
    let key = Key::p256("known");
    let provider = Provider::start(&[&key]).await;
    let access = access_by_url(&provider.url).await;
    assert!(is_good(&access, &key).await);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..100 {
        let access = access.clone();
        tasks.spawn(async move {
            let denied = access.verify(&Key::ed25519(&format!("unknown {n}")).token(&claims())).await.unwrap_err();
            assert_eq!(denied.code, ErrorCode::BadToken);
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    for n in 0..20 {
        assert!(!is_good(&access, &Key::ed25519(&format!("later {n}"))).await);
    }
    assert_eq!(provider.requests(), 2, "one at start, one for all the unknown keys");
    assert!(is_good(&access, &key).await);
}

#[tokio::test]
async fn a_provider_that_is_down_at_start_does_not_keep_the_gateway_down() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let access = access_by_url(&jwks_url(address)).await;
    let key = Key::p256("a");
    let denied = access.verify(&key.token(&claims())).await.unwrap_err();
    assert_eq!((denied.status, denied.code), (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::NotReady));
    let provider = Provider::start_on(TcpListener::bind(address).await.unwrap(), &[&key]);
    becomes_good(&access, &key).await;
    assert!(provider.requests() >= 1);
}

#[tokio::test]
async fn known_keys_go_on_working_whatever_the_provider_answers() {
    let (key, unknown) = (Key::p256("a"), Key::p256("b"));
    let answers = [
        (StatusCode::INTERNAL_SERVER_ERROR, String::new()),
        (StatusCode::OK, "<html>".to_owned()),
        (StatusCode::OK, json!({"keys":[]}).to_string()),
        (StatusCode::FOUND, json!({"keys":[unknown.public]}).to_string()),
        (StatusCode::OK, format!("{{\"keys\":[{}],\"x\":\"{}\"}}", unknown.public, "x".repeat(300_000))),
        (StatusCode::OK, json!({"keys":vec![&unknown.public; 101]}).to_string()),
    ];
    for (status, body) in answers {
        let provider = Provider::start(&[&key]).await;
        let access = access_by_url(&provider.url).await;
        assert!(is_good(&access, &key).await);
        let what = format!("{status} {:.40}", body);
        provider.answer(status, body);
        assert!(!is_good(&access, &unknown).await, "{what}");
        assert_eq!(provider.requests(), 2, "{what}: it was asked");
        assert!(is_good(&access, &key).await, "{what}");
    }
}

#[tokio::test]
async fn keys_that_cannot_be_used_do_not_spoil_the_others() {
    let key = Key::p256("a");
    let weak = Key::rsa("weak", 1024);
    let provider = Provider::start(&[&key]).await;
    let odd = json!({"keys":[
        weak.public, {"kty":"EC","crv":"secp256k1","x":"AA","y":"AA"}, {"kty":"oct","k":"AAAA","kid":"a"},
        {"kty":"OKP","crv":"X25519","x":"AA"}, 7, key.public
    ]});
    provider.answer(StatusCode::OK, odd.to_string());
    let access = access_by_url(&provider.url).await;
    assert!(is_good(&access, &key).await);
    assert!(!is_good(&access, &weak).await);
}

#[tokio::test]
async fn a_key_file_is_read_again_when_it_changes() {
    let (old, new) = (Key::p256("old"), Key::p256("new"));
    let set = |key: &Key| json!({"keys":[key.public]}).to_string();
    let file = file(set(&old).as_bytes());
    let access = access(&format!("algorithms = [\"ES256\"]\njwks_file = {:?}", file.path())).await;
    assert!(is_good(&access, &old).await);

    std::fs::write(file.path(), "{").unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!is_good(&access, &new).await);
    assert!(is_good(&access, &old).await, "a file that is broken for a while changes nothing");

    std::fs::write(file.path(), set(&new)).unwrap();
    becomes_good(&access, &new).await;
    assert!(!is_good(&access, &old).await);
}
