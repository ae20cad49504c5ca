//! Settings that cannot be used stop the gateway with the key, the value and what would be right.

use gateway::access::{Access, AccessSettings, Admitted};
use protocol::config::Config;
use serde_json::json;

use crate::{
    issuer::{Key, of_config, try_access},
    tokens::file,
};

async fn error(lines: &str) -> String {
    try_access(lines).await.map(drop).unwrap_err()
}

#[tokio::test]
async fn a_weak_or_missing_secret_is_refused_without_being_shown() {
    let short = file(b"hunter2\n");
    let message = error(&format!("algorithms = [\"HS256\"]\nsecret_file = {:?}", short.path())).await;
    assert!(message.contains("auth.jwt.secret_file") && message.contains("32 bytes"), "{message}");
    assert!(message.contains("there are 7") && !message.contains("hunter2"), "{message}");

    let public = file(b"-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA\n");
    let message = error(&format!("algorithms = [\"HS256\"]\nsecret_file = {:?}", public.path())).await;
    assert!(message.contains("shared secret"), "{message}");

    let message = error("algorithms = [\"HS256\"]\nsecret_file = \"/nowhere/secret\"").await;
    assert!(message.contains("/nowhere/secret") && message.contains("No such file"), "{message}");

    let message = error("algorithms = [\"HS256\"]\nsecret_env = \"ROWCAST_TEST_NOT_SET\"").await;
    assert!(message.contains("auth.jwt.secret_env = 'ROWCAST_TEST_NOT_SET'"), "{message}");
}

#[tokio::test]
async fn a_key_file_without_a_usable_key_is_refused() {
    let lines = |path: &std::path::Path| format!("algorithms = [\"RS256\"]\njwks_file = {path:?}");
    let weak = file(json!({"keys":[Key::rsa("weak", 1024).public]}).to_string().as_bytes());
    let message = error(&lines(weak.path())).await;
    assert!(
        message.contains("auth.jwt.jwks_file") && message.contains("'weak'") && message.contains("1024 bits"),
        "{message}"
    );
    let other = file(json!({"keys":[Key::p256("ec").public]}).to_string().as_bytes());
    assert!(error(&lines(other.path())).await.contains("does not have ES256"));
    let text = file(b"-----BEGIN PUBLIC KEY-----");
    assert!(error(&lines(text.path())).await.contains("JSON Web Key Set"));
    assert!(error(&lines("/nowhere/jwks.json".as_ref())).await.contains("/nowhere/jwks.json"));
}

#[tokio::test]
async fn a_setting_out_of_its_range_is_refused() {
    let url = "jwks_url = \"https://id.example.com/jwks\"\nalgorithms = [\"RS256\"]";
    assert!(error(&format!("{url}\nleeway_s = 86400")).await.contains("auth.jwt.leeway_s = '86400'"));
    let of_url = async |lines: &str| {
        let text = format!("[auth]\norigins = [\"https://a.example\"]\n{lines}\n");
        of_config(&text).await.map(drop).unwrap_err()
    };
    assert!(of_url("url = \"http://app/\"\ntimeout_ms = 0").await.contains("auth.timeout_ms = '0'"));
    let message = of_url("url = \"http://u:hunter2@app/\"").await;
    assert!(message.contains("auth.url") && !message.contains("hunter2"), "{message}");
    for name in ["host", "Connection", "x-forwarded-for", "sec-websocket-key", "not a header"] {
        let message = of_url(&format!("url = \"http://app/\"\nforward = [\"cookie\", {name:?}]")).await;
        assert!(message.contains(&format!("auth.forward = '{name}'")), "{message}");
    }
}

#[tokio::test]
async fn auth_and_anonymous_exclude_each_other() {
    let auth = Config::parse("[auth]\nurl = \"http://app/\"\nforward = [\"authorization\"]\n").unwrap().auth;
    let both = AccessSettings { auth, anonymous: true, trusted_proxies: Vec::new() };
    let message = Access::new(both).await.map(drop).unwrap_err().to_string();
    assert!(message.contains("--anonymous") && message.contains("[auth]"), "{message}");
}

#[tokio::test]
async fn without_settings_only_this_machine_is_let_in_and_with_anonymous_everybody() {
    let elsewhere = "203.0.113.9".parse().unwrap();
    let mut headers = axum::http::HeaderMap::new();
    headers.insert("host", "dash.example.com".parse().unwrap());
    headers.insert("origin", "https://dash.example.com".parse().unwrap());
    let closed = Access::new(AccessSettings::default()).await.unwrap();
    assert_eq!(closed.admit(elsewhere, &headers, None).await.map(drop).unwrap_err().status, 403);
    let open = Access::new(AccessSettings { anonymous: true, ..AccessSettings::default() }).await.unwrap();
    match open.admit(elsewhere, &headers, None).await.unwrap() {
        Admitted::Claims(claims) => assert!(claims.may_subscribe("x") && claims.may_ingest("/y")),
        Admitted::NeedsToken => panic!("anonymous clients have no token"),
    }
    for access in [open, closed] {
        assert_eq!(access.verify("x").await.map(drop).unwrap_err().code, protocol::ErrorCode::Unsupported);
    }
}
