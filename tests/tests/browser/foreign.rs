//! Pages of other sites that try to reach a gateway on this machine.

use e2e::{browser::Browser, site::Site};
use serde_json::json;

/// Opens a socket, and says how that went; then writes as a form can, unasked.
const ATTACK: &str = r#"
    (async () => {
        const opened = await new Promise((done) => {
            const socket = new WebSocket('ws://HOST/rowcast');
            socket.onopen = () => done(true);
            socket.onerror = () => done(false);
        });
        const row = JSON.stringify({ sensor_id: 'stolen', value: 1 });
        const wrote = [];
        for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'application/json']) {
            const mode = type === 'application/json' ? 'cors' : 'no-cors';
            const sent = fetch('http://HOST/api/sensors/', { method: 'POST', mode, headers: { 'content-type': type }, body: row });
            wrote.push(await sent.then((answer) => answer.status, () => 'refused'));
        }
        return { opened, wrote };
    })()
"#;

#[tokio::test]
async fn a_page_of_another_site_reaches_nothing_on_this_machine() {
    let site = Site::start().await.unwrap();
    let gateway = &site.gateways[0];
    let (address, port) = (gateway.address(), gateway.address().port());
    // Names that their owner points at this machine.
    let browser = Browser::start(&["--host-resolver-rules=MAP *.evil.test 127.0.0.1"]).await.unwrap();
    let attack = |host: String| ATTACK.replace("HOST", &host);
    let denied = async || gateway.metric(r#"denied_total{code="forbidden"}"#).await.unwrap();
    let rows = async || {
        let count = site.sql().await.unwrap().query_one("select count(*) from sensor_readings", &[]).await.unwrap();
        count.get::<_, i64>(0)
    };

    // Another site, which knows the address. (That another server answers for it is all that makes it
    // another one; it has to be on this machine, or the browser itself may be in the way.)
    let other = site.address().port();
    let stranger = browser.open(&format!("http://stranger.evil.test:{other}/healthz")).await.unwrap();
    let result = stranger.evaluate(&attack(address.to_string())).await.unwrap();
    assert_eq!(result["opened"], false, "{result}");
    // What is sent without CORS cannot be seen by who sends it: whether it wrote is asked below.
    assert_eq!(result["wrote"][2], "refused", "{result}");
    // It was the gateway that refused, and not only the browser.
    assert_eq!(denied().await, 1.0);

    // A page from a name that now means this machine: to the browser it is at home.
    let rebound = browser.open(&format!("http://localhost.evil.test:{port}/healthz")).await.unwrap();
    let result = rebound.evaluate(&attack(format!("localhost.evil.test:{port}"))).await.unwrap();
    assert_eq!(result, json!({"opened": false, "wrote": [403, 403, 403]}));
    assert_eq!(denied().await, 2.0);
    assert_eq!(rows().await, 0);

    // And a page of this machine, by the same means.
    let own = browser.open(&format!("http://{address}/healthz")).await.unwrap();
    let result = own.evaluate(&attack(address.to_string())).await.unwrap();
    assert_eq!(result, json!({"opened": true, "wrote": [415, 415, 201]}));
    assert_eq!(rows().await, 1);
}
