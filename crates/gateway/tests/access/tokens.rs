//! What a token must be like.

use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, UNIX_EPOCH},
};

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use gateway::access::{Access, Admitted, Claims, Denied};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use protocol::ErrorCode;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::{
    issuer::{AUDIENCE, ISSUER, Key, Provider, RSA, access, access_by_url, b64, claims, claims_with, now},
    logged::Logged,
};

const SECRET: &[u8] = b"a secret of at least thirty-two bytes";

pub fn file(text: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text).unwrap();
    file
}

async fn refused(access: &Access, token: &str) -> String {
    let denied = access.verify(token).await.map(|claims| panic!("let in: {claims:?}")).unwrap_err();
    assert_eq!((denied.status, denied.code), (StatusCode::UNAUTHORIZED, ErrorCode::BadToken), "{denied}");
    assert!(token.len() < 20 || !denied.message.contains(token), "{denied}");
    denied.message
}

fn is_ada(claims: &Claims) {
    assert_eq!(claims.subject(), Some("ada"));
    assert!(claims.may_subscribe("public.orders") && !claims.may_subscribe("private.orders"));
    assert!(claims.may_ingest("/api/sensors/") && !claims.may_ingest("/other/"));
}

async fn admit(access: &Access, fields: &[(&'static str, &str)], query: Option<&str>) -> Result<Admitted, Denied> {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    access.admit(IpAddr::V4(Ipv4Addr::LOCALHOST), &headers, query).await
}

#[tokio::test]
async fn a_token_of_each_algorithm_is_let_in() {
    let (ec, ed) = (Key::p256("ec"), Key::ed25519("ed"));
    let provider = Provider::start(&[&RSA, &ec, &ed]).await;
    let access = access_by_url(&provider.url).await;
    for key in [&*RSA, &ec, &ed] {
        is_ada(&access.verify(&key.token(&claims())).await.unwrap());
        // One key for the algorithm: no need to name it.
        let nameless = jsonwebtoken::encode(&Header::new(key.algorithm), &claims(), &key.signing).unwrap();
        is_ada(&access.verify(&nameless).await.unwrap());
    }
}

#[tokio::test]
async fn a_shared_secret_is_taken_without_the_line_break_of_its_file() {
    let secret = file(&[SECRET, b"\n"].concat());
    let access = access(&format!("algorithms = [\"HS256\"]\nsecret_file = {:?}", secret.path())).await;
    let sign = |secret: &[u8]| {
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims(), &EncodingKey::from_secret(secret)).unwrap()
    };
    is_ada(&access.verify(&sign(SECRET)).await.unwrap());
    assert!(refused(&access, &sign(b"another secret of thirty-two bytes!!")).await.contains("signature"));
}

#[tokio::test]
async fn an_unsigned_token_is_refused() {
    let provider = Provider::start(&[&RSA]).await;
    let access = access_by_url(&provider.url).await;
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        for kid in ["", ",\"kid\":\"rsa\""] {
            let head = b64(format!("{{\"alg\":\"{alg}\",\"typ\":\"JWT\"{kid}}}"));
            let body = b64(claims().to_string());
            refused(&access, &format!("{head}.{body}.")).await;
            let signed = RSA.token(&claims());
            refused(&access, &format!("{head}.{body}.{}", signed.rsplit('.').next().unwrap())).await;
        }
    }
}

#[tokio::test]
async fn a_public_key_is_not_a_shared_secret() {
    let provider = Provider::start(&[&RSA]).await;
    let secret = file(SECRET);
    let access = access(&format!(
        "algorithms = [\"RS256\", \"HS256\"]\nsecret_file = {:?}\njwks_url = {:?}",
        secret.path(),
        provider.url
    ))
    .await;
    is_ada(&access.verify(&RSA.token(&claims())).await.unwrap());
    let n = RSA.public["n"].as_str().unwrap();
    let modulus = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, n).unwrap();
    for public in [n.as_bytes(), &modulus, RSA.public.to_string().as_bytes(), b""] {
        for header in [Header::new(Algorithm::HS256), Header { alg: Algorithm::HS256, ..RSA.header() }] {
            let forged = jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(public)).unwrap();
            refused(&access, &forged).await;
        }
    }
}

#[tokio::test]
async fn a_forged_token_is_refused() {
    let (stranger, ec) = (Key::rsa("rsa", 2048), Key::p256("ec"));
    let provider = Provider::start(&[&RSA, &ec]).await;
    let access = access_by_url(&provider.url).await;
    assert!(refused(&access, &stranger.token(&claims())).await.contains("signature"));

    let good = RSA.token(&claims());
    let parts: Vec<&str> = good.split('.').collect();
    let more = b64(claims_with("topics", json!(["*"])).to_string());
    refused(&access, &format!("{}.{more}.{}", parts[0], parts[2])).await;
    refused(&access, &format!("{}.{}.", parts[0], parts[1])).await;
    refused(&access, &format!("{}.{}.{}", parts[0], parts[1], b64([0; 256]))).await;

    // A header that brings its own key, or says where to get it.
    let own = Header { jwk: serde_json::from_value(stranger.public.clone()).ok(), ..stranger.header() };
    refused(&access, &jsonwebtoken::encode(&own, &claims(), &stranger.signing).unwrap()).await;
    let elsewhere = Header { jku: Some("http://127.0.0.1:1/jwks".into()), ..stranger.header() };
    refused(&access, &jsonwebtoken::encode(&elsewhere, &claims(), &stranger.signing).unwrap()).await;

    // A key used with another algorithm than its own.
    let confused = Header { kid: Some("ec".into()), ..Header::new(Algorithm::RS256) };
    refused(&access, &jsonwebtoken::encode(&confused, &claims(), &RSA.signing).unwrap()).await;
    for algorithm in [Algorithm::RS384, Algorithm::RS512, Algorithm::PS256] {
        let other = Header { alg: algorithm, ..RSA.header() };
        let message = refused(&access, &jsonwebtoken::encode(&other, &claims(), &RSA.signing).unwrap()).await;
        assert!(message.contains("not taken here"), "{message}");
    }
}

#[tokio::test]
async fn an_algorithm_that_is_not_allowed_is_refused_even_with_a_good_key() {
    let ec = Key::p256("ec");
    let provider = Provider::start(&[&RSA, &ec]).await;
    let access = access(&format!("algorithms = [\"ES256\"]\njwks_url = {:?}", provider.url)).await;
    is_ada(&access.verify(&ec.token(&claims())).await.unwrap());
    assert!(refused(&access, &RSA.token(&claims())).await.contains("RS256"));
}

#[tokio::test]
async fn a_token_for_somebody_else_or_another_time_is_refused() {
    let ec = Key::p256("ec");
    let provider = Provider::start(&[&ec]).await;
    let access = access_by_url(&provider.url).await;
    for (name, value, word) in [
        ("exp", json!(now() - 60), "expired"),
        ("exp", json!(0), "expired"),
        ("exp", Value::Null, "exp"),
        ("exp", json!("tomorrow"), "claims"),
        ("exp", json!(-1), "exp"),
        ("nbf", json!(now() + 60), "not valid yet"),
        ("aud", json!("other"), "audience"),
        ("aud", json!(["other", "another"]), "audience"),
        ("aud", Value::Null, "aud"),
        ("iss", json!("https://evil.example/"), "issuer"),
        ("iss", Value::Null, "iss"),
        ("topics", json!("public.*"), "lists of strings"),
        ("topics", json!([1]), "lists of strings"),
        ("ingest", json!({"a":1}), "lists of strings"),
        ("sub", json!(7), "claims"),
    ] {
        let message = refused(&access, &ec.token(&claims_with(name, value.clone()))).await;
        assert!(message.contains(word), "{name} = {value}: {message}");
    }
    for (name, value) in [
        ("aud", json!(["other", AUDIENCE])),
        ("nbf", json!(now())),
        ("iat", json!(now())),
        ("exp", json!(now() as f64 + 60.5)),
        ("iss", json!(ISSUER)),
    ] {
        is_ada(&access.verify(&ec.token(&claims_with(name, value))).await.unwrap());
    }
}

#[tokio::test]
async fn clocks_may_differ_by_the_leeway() {
    let ec = Key::p256("ec");
    let provider = Provider::start(&[&ec]).await;
    let lines = format!("algorithms = [\"ES256\"]\nleeway_s = 30\njwks_url = {:?}", provider.url);
    let access = access(&lines).await;
    let exp = now() - 20;
    let claims = access.verify(&ec.token(&claims_with("exp", json!(exp)))).await.unwrap();
    assert_eq!(claims.expires_at(), Some(UNIX_EPOCH + Duration::from_secs(exp + 30)));
    assert!(access.verify(&ec.token(&claims_with("nbf", json!(now() + 20)))).await.is_ok());
    refused(&access, &ec.token(&claims_with("exp", json!(now() - 40)))).await;
}

#[tokio::test]
async fn a_header_that_asks_for_more_than_is_known_is_refused() {
    let ec = Key::p256("ec");
    let provider = Provider::start(&[&ec]).await;
    let access = access_by_url(&provider.url).await;
    let header = Header { crit: Some(vec!["exp".into()]), ..ec.header() };
    let token = jsonwebtoken::encode(&header, &claims(), &ec.signing).unwrap();
    assert!(refused(&access, &token).await.contains("crit"));
}

#[tokio::test]
async fn what_is_no_token_is_refused() {
    let provider = Provider::start(&[&RSA]).await;
    let access = access_by_url(&provider.url).await;
    let long = format!("{}.{}.x", b64(json!({"alg":"RS256"}).to_string()), "a".repeat(9_000));
    for token in ["", ".", "..", "...", "a.b.c", "x", "{}", "\u{0}", "ä.ö.ü", &"a".repeat(100_000), &long] {
        refused(&access, token).await;
    }
}

#[tokio::test]
async fn a_claim_that_is_absent_grants_nothing() {
    let ec = Key::p256("ec");
    let provider = Provider::start(&[&ec]).await;
    let access = access_by_url(&provider.url).await;
    let claims = access.verify(&ec.token(&claims_with("topics", Value::Null))).await.unwrap();
    assert!(!claims.may_subscribe("public.orders") && claims.may_ingest("/api/sensors/"));
}

#[tokio::test]
async fn a_request_carries_its_token_in_a_header_a_cookie_or_the_query() {
    let ec = Key::p256("ec");
    let provider = Provider::start(&[&ec]).await;
    let lines = format!("algorithms = [\"ES256\"]\ncookie = \"session\"\njwks_url = {:?}", provider.url);
    let text = format!(
        "[auth]\norigins = [\"https://dash.example.com\"]\n[auth.jwt]\naudience = \"{AUDIENCE}\"\nissuer = \"{ISSUER}\"\n{lines}"
    );
    let access = crate::issuer::of_config(&text).await.unwrap();
    let token = ec.token(&claims());
    let (bearer, cookie, query) =
        (format!("Bearer {token}"), format!("a=b; session={token}"), format!("x=1&token={token}"));
    let mine = ("origin", "https://dash.example.com");
    for (fields, query) in [
        (vec![("authorization", bearer.as_str())], None),
        (vec![("cookie", cookie.as_str()), mine], None),
        (vec![mine], Some(query.as_str())),
        (vec![("cookie", cookie.as_str())], None),
    ] {
        match admit(&access, &fields, query).await {
            Ok(Admitted::Claims(claims)) => is_ada(&claims),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(admit(&access, &[mine], None).await, Ok(Admitted::NeedsToken)));
    assert!(matches!(admit(&access, &[("authorization", "Basic eDp5")], None).await, Ok(Admitted::NeedsToken)));

    let denied = admit(&access, &[("authorization", "Bearer x.y.z")], None).await.unwrap_err();
    assert_eq!(denied.code, ErrorCode::BadToken);
    let denied = admit(&access, &[("authorization", &bearer)], Some("token=x.y.z")).await.unwrap_err();
    assert!(denied.message.contains("two different tokens"), "{denied}");
}

#[tokio::test]
async fn a_page_that_is_not_on_the_list_is_refused_with_the_best_of_tokens() {
    let ec = Key::p256("ec");
    let provider = Provider::start(&[&ec]).await;
    let text = format!(
        "[auth]\norigins = [\"https://dash.example.com\"]\n[auth.jwt]\naudience = \"{AUDIENCE}\"\nissuer = \"{ISSUER}\"\n\
         algorithms = [\"ES256\"]\njwks_url = {:?}",
        provider.url
    );
    let access = crate::issuer::of_config(&text).await.unwrap();
    let bearer = format!("Bearer {}", ec.token(&claims()));
    for origin in ["https://evil.example", "null", "http://dash.example.com", "http://localhost"] {
        let denied = admit(&access, &[("authorization", &bearer), ("origin", origin)], None).await.unwrap_err();
        assert_eq!((denied.status, denied.code), (StatusCode::FORBIDDEN, ErrorCode::Forbidden), "{origin}");
    }
}

#[tokio::test]
async fn tokens_do_not_reach_the_log() {
    let logged = Logged::start();
    let (key, stranger) = (Key::p256("a"), Key::p256("stranger"));
    let provider = Provider::start(&[&key]).await;
    let access = access_by_url(&provider.url).await;
    for token in [
        key.token(&claims()),
        key.token(&claims_with("exp", json!(1))),
        stranger.token(&claims()),
        "no.token.at-all-hunter2".to_owned(),
    ] {
        let answer = format!("{:?}", access.verify(&token).await);
        let log = logged.text();
        for part in token.split('.').filter(|part| part.len() > 8) {
            assert!(!log.contains(part) && !answer.contains(part), "{part}: {log} {answer}");
        }
    }
    assert!(logged.text().contains("read the keys"), "something was logged");
}
