//! Who may look.

use clap::Parser;
use gateway::{Gateway, Settings};

use crate::{
    stage::{TOKEN, ask, get, start},
    support::TestGateway,
};

const APIS: [&str; 7] = ["overview", "topics", "connections", "left", "connection", "changes", "why"];

#[tokio::test]
async fn it_is_off_unless_it_is_enabled() {
    for flags in [&[][..], &["--inspect-token", TOKEN]] {
        let gateway = TestGateway::start(flags, "").await;
        let paths = APIS.map(|api| format!("/inspect/api/{api}"));
        for path in paths.iter().map(String::as_str).chain(["/inspect", "/inspect/assets/inspect.js"]) {
            let (status, answer) = get(&gateway, path, &format!("Authorization: Bearer {TOKEN}\r\n")).await;
            assert_eq!(status, 404, "{path}: {answer}");
            assert!(answer.contains("nothing is served at this path"), "{answer}");
        }
        assert_eq!(gateway.metric("rowcast_gateway_inspections_total").await, 0);
        gateway.shutdown.cancel();
    }
}

#[tokio::test]
async fn where_others_can_reach_it_it_does_not_start_without_a_token() {
    let bus = bus::Bus::Memory(bus::MemoryBus::new(bus::Retention::default()));
    let bind = async |more: &[&str]| {
        let flags = ["gateway", "--bind", "0.0.0.0:0", "--anonymous", "--inspect"].iter().chain(more);
        let settings = Settings::try_parse_from(flags).unwrap();
        Gateway::bind(settings, protocol::config::Config::default(), bus.clone()).await.map(drop)
    };
    let error = bind(&[]).await.unwrap_err().to_string();
    assert!(
        error.contains("--inspect-token (ROWCAST_INSPECT_TOKEN) is missing") && error.contains("openssl"),
        "{error}"
    );
    let error = bind(&["--inspect-token", "short"]).await.unwrap_err().to_string();
    assert!(error.contains("5 characters") && !error.contains("short"), "{error}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{TOKEN}\n")).unwrap();
    bind(&["--inspect-token-file", file.path().to_str().unwrap()]).await.unwrap();
    bind(&["--inspect-token", TOKEN]).await.unwrap();
}

#[tokio::test]
async fn with_a_token_nobody_looks_without_it() {
    let gateway = TestGateway::start(&["--inspect", "--inspect-token", TOKEN], "").await;
    let right = format!("Authorization: Bearer {TOKEN}\r\n");
    for api in APIS {
        let path = format!("/inspect/api/{api}");
        let (status, answer) = get(&gateway, &path, "").await;
        assert_eq!(status, 401, "{answer}");
        assert!(
            answer.contains("ROWCAST_INSPECT_TOKEN") && answer.to_lowercase().contains("www-authenticate: bearer"),
            "{answer}"
        );
        let (status, _) = get(&gateway, &format!("{path}?token={TOKEN}"), "").await;
        assert_eq!(status, 401, "a URL is written down in too many places");
        for wrong in ["Bearer ", "Bearer x", "Basic eDp5", "Bearer a-token-that-nobody-tries-ouT"] {
            assert_eq!(get(&gateway, &path, &format!("Authorization: {wrong}\r\n")).await.0, 401, "{wrong}");
        }
        let cross = format!("{right}Sec-Fetch-Site: cross-site\r\n");
        assert_eq!(get(&gateway, &path, &cross).await.0, 403);
        let cross = format!("{right}Origin: https://evil.example\r\n");
        assert_eq!(get(&gateway, &path, &cross).await.0, 403);
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: 0\r\n{right}\r\n",
                gateway.address
            );
            assert_eq!(gateway.request(&request).await.0, 405, "{method}");
        }
    }
    let forwarded = format!("{right}X-Forwarded-For: 203.0.113.9\r\nSec-Fetch-Site: same-origin\r\n");
    let (status, answer) = get(&gateway, "/inspect/api/overview", &forwarded).await;
    assert_eq!(status, 200, "{answer}");
    let head = answer.split_once("\r\n\r\n").unwrap().0.to_lowercase();
    assert!(head.contains("cache-control: no-store") && !head.contains("access-control"), "{head}");

    // The page shows nothing by itself.
    let (status, page) = get(&gateway, "/inspect", "").await;
    let head = page.split_once("\r\n\r\n").unwrap().0.to_lowercase();
    assert_eq!(status, 200);
    assert!(head.contains("default-src 'self'; frame-ancestors 'none'") && head.contains("nosniff"), "{head}");
    assert_eq!(get(&gateway, "/inspect/assets/inspect.js", "").await.0, 200);
    assert_eq!(get(&gateway, "/inspect/assets/nothing.js", "").await.0, 404);
    assert!(gateway.metric("rowcast_gateway_inspections_total{status=\"401\"}").await >= 7 * 6);
    assert!(gateway.metric("rowcast_gateway_denied_total{code=\"bad_token\"}").await >= 7);
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn without_a_token_only_this_machine_looks() {
    let gateway = start(&["--anonymous"]).await;
    assert_eq!(ask(&gateway, "overview").await.0, 200);
    for path in ["/inspect/api/overview", "/inspect", "/inspect/assets/inspect.css"] {
        for header in ["X-Forwarded-For: 127.0.0.1", "Via: 1.1 proxy", "Origin: https://evil.example"] {
            let (status, answer) = get(&gateway, path, &format!("{header}\r\n")).await;
            assert_eq!(status, 403, "{answer}");
            assert!(answer.contains("for this machine only") && answer.contains("--inspect-token"), "{answer}");
        }
    }
    let (status, answer) =
        gateway.request("GET /inspect HTTP/1.1\r\nHost: rebound.example\r\nConnection: close\r\n\r\n").await;
    assert!(status == 403 && answer.contains("rebound.example"), "{answer}");
    gateway.shutdown.cancel();
}
