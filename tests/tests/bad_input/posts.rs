//! What comes by POST.

use e2e::{http::post, site::Site};

const JSON: &str = "Content-Type: application/json\r\n";

#[tokio::test]
async fn a_bad_post_is_refused_with_the_reason_and_stores_nothing() {
    let site = Site::start().await.unwrap();
    let address = site.gateways[0].address();
    let huge = format!(r#"{{"sensor_id":"a","value":1,"metadata":{{"x":"{}"}}}}"#, "x".repeat(2 << 20));
    let foreign = format!("{JSON}Origin: http://evil.example\r\n");
    let form = "Content-Type: application/x-www-form-urlencoded\r\nOrigin: http://evil.example\r\n";
    let own_form = format!("Content-Type: application/x-www-form-urlencoded\r\nOrigin: http://{address}\r\n");
    let long_for_notify = format!(r#"{{"sensor_id":"a","value":1,"metadata":{{"x":"{}"}}}}"#, "x".repeat(8_000));
    for (headers, body, status, error) in [
        (JSON, "", 400, "bad_json"),
        (JSON, "{", 400, "bad_json"),
        (JSON, "[1]", 400, "bad_json"),
        (JSON, r#"{"sensor_id":"a","value":1,"value":2}"#, 400, "bad_json"),
        (JSON, "\0\u{1}\u{2}", 400, "bad_json"),
        (JSON, r#"{"sensor_id":"a","valeu":1}"#, 422, "unknown_column"),
        (JSON, r#"{"sensor_id":"a","value":1,"id":7}"#, 422, "unknown_column"),
        (JSON, r#"{"sensor_id":"a","value":"much"}"#, 422, "bad_row"),
        (JSON, r#"{"value":1}"#, 422, "bad_row"),
        (JSON, &long_for_notify, 422, "bad_row"),
        (JSON, &huge, 413, "too_large"),
        ("", r#"{"sensor_id":"a","value":1}"#, 415, "unsupported_media_type"),
        ("Content-Type: text/plain\r\n", r#"{"sensor_id":"a","value":1}"#, 415, "unsupported_media_type"),
        (&own_form, "sensor_id=a&value=1", 415, "unsupported_media_type"),
        (form, "sensor_id=a&value=1", 403, "forbidden"),
        (&foreign, r#"{"sensor_id":"a","value":1}"#, 403, "forbidden"),
    ] {
        let what = format!("{headers}{}", body.chars().take(80).collect::<String>());
        let (found, answer) = post(address, "/api/sensors/", headers, body.as_bytes()).await.unwrap();
        assert_eq!(found, status, "{what}: {answer}");
        assert!(answer.contains(&format!(r#""error":"{error}""#)), "{what}: {answer}");
    }
    let (_, answer) = post(address, "/api/sensors/", JSON, br#"{"valeu":1}"#).await.unwrap();
    assert!(answer.contains("valeu") && answer.contains("sensor_id, value, metadata"), "{answer}");
    // nginx has a limit of its own, and it is no higher.
    let (through_nginx, _) = post(site.address(), "/api/sensors/", JSON, huge.as_bytes()).await.unwrap();
    assert_eq!(through_nginx, 413);

    let good = post(address, "/api/sensors/", JSON, br#"{"sensor_id":"a","value":1}"#).await.unwrap();
    assert_eq!(good.0, 201, "{}", good.1);
    let stored = site.sql().await.unwrap().query_one("select count(*) from sensor_readings", &[]).await.unwrap();
    assert_eq!(stored.get::<_, i64>(0), 1);
}
