use std::{
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use sha2::Sha256;

use crate::{
    connect::Hello,
    peers::{
        peer::{Peer, Post, Way},
        place::Place,
    },
};

/// Sockudo alone, with Pusher's protocol.
pub struct Sockudo;

const PATH: &str = "/apps/bench/events";
/// As in `crates/bench/peers/sockudo/environment`.
const SECRET: &[u8] = b"bench-secret";

impl Peer for Sockudo {
    fn folder(&self) -> &'static str {
        "sockudo"
    }

    fn name(&self) -> &'static str {
        "Sockudo"
    }

    fn commands(&self, place: &Place) -> anyhow::Result<Vec<Command>> {
        let settings = place.fill("environment")?;
        let mut sockudo = Command::new(place.installed("bin/sockudo"));
        sockudo.envs(settings.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('=')));
        Ok(vec![sockudo])
    }

    fn hello(&self) -> Hello {
        let subscribe = r#"{"event":"pusher:subscribe","data":{"channel":"bench"}}"#;
        let path = "/app/bench-key?protocol=7&client=bench&version=1.0";
        Hello::other(path, subscribe, b"pusher_internal:subscription_succeeded")
    }

    fn way(&self) -> Way {
        Way::PostOnce(signed)
    }
}

/// An event as Pusher's libraries send it: its data are a text.
fn signed(payload: &str) -> Post {
    let data = payload.replace('"', "\\\"");
    let body = format!(r#"{{"name":"sensor_update","channel":"bench","data":"{data}"}}"#);
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let query = query(&body, now_s);
    let signature = signature(SECRET, PATH, &query);
    Post { path: format!("{PATH}?{query}&auth_signature={signature}"), body }
}

fn query(body: &str, now_s: u64) -> String {
    let md5 = hex(&Md5::digest(body));
    format!("auth_key=bench-key&auth_timestamp={now_s}&auth_version=1.0&body_md5={md5}")
}

fn signature(secret: &[u8], path: &str, query: &str) -> String {
    let signed = Hmac::<Sha256>::new_from_slice(secret).map(|hmac| hmac.chain_update(format!("POST\n{path}\n{query}")));
    // Any length of key will do.
    signed.map(|hmac| hex(&hmac.finalize().into_bytes())).unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of Pusher's own documentation.
    #[test]
    fn a_request_is_signed_as_pusher_says() {
        let query = "auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0\
                     &body_md5=ec365a775a4cd0599faeb73354201b6f";
        assert_eq!(
            signature(b"7ad3773142a6692b25b8", "/apps/3/events", query),
            "da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c"
        );
        let body = r#"{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}"#;
        assert!(self::query(body, 1).ends_with("body_md5=ec365a775a4cd0599faeb73354201b6f"));
    }
}
