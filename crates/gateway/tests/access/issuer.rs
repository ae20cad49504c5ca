//! An identity provider: keys, tokens, and a key set behind a URL.

use std::{
    net::SocketAddr,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{SigningKey, pkcs8::EncodePrivateKey};
use gateway::access::{Access, AccessSettings};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use p256::elliptic_curve::{rand_core::OsRng, sec1::ToEncodedPoint};
use protocol::config::Config;
use rsa::{RsaPrivateKey, pkcs1::EncodeRsaPrivateKey, traits::PublicKeyParts};
use serde_json::{Value, json};
use tokio::net::TcpListener;

pub const AUDIENCE: &str = "rowcast";
pub const ISSUER: &str = "https://id.example.com/";

/// Making one takes a while.
pub static RSA: LazyLock<Key> = LazyLock::new(|| Key::rsa("rsa", 2048));

pub struct Key {
    pub id: String,
    pub algorithm: Algorithm,
    pub signing: EncodingKey,
    pub public: Value,
}

pub fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Key {
    pub fn rsa(id: &str, bits: usize) -> Self {
        let key = RsaPrivateKey::new(&mut OsRng, bits).unwrap();
        Self {
            id: id.into(),
            algorithm: Algorithm::RS256,
            signing: EncodingKey::from_rsa_der(key.to_pkcs1_der().unwrap().as_bytes()),
            public: json!({"kty":"RSA","kid":id,"use":"sig","alg":"RS256",
                           "n":b64(key.n().to_bytes_be()),"e":b64(key.e().to_bytes_be())}),
        }
    }

    pub fn p256(id: &str) -> Self {
        let key = p256::SecretKey::random(&mut OsRng);
        let point = key.public_key().to_encoded_point(false);
        Self {
            id: id.into(),
            algorithm: Algorithm::ES256,
            signing: EncodingKey::from_ec_der(key.to_pkcs8_der().unwrap().as_bytes()),
            public: json!({"kty":"EC","crv":"P-256","kid":id,"x":b64(point.x().unwrap()),"y":b64(point.y().unwrap())}),
        }
    }

    pub fn ed25519(id: &str) -> Self {
        let mut seed = [0; 32];
        p256::elliptic_curve::rand_core::RngCore::fill_bytes(&mut OsRng, &mut seed);
        let key = SigningKey::from_bytes(&seed);
        Self {
            id: id.into(),
            algorithm: Algorithm::EdDSA,
            signing: EncodingKey::from_ed_der(key.to_pkcs8_der().unwrap().as_bytes()),
            public: json!({"kty":"OKP","crv":"Ed25519","kid":id,"x":b64(key.verifying_key().to_bytes())}),
        }
    }

    pub fn header(&self) -> Header {
        Header { kid: Some(self.id.clone()), ..Header::new(self.algorithm) }
    }

    pub fn token(&self, claims: &Value) -> String {
        jsonwebtoken::encode(&self.header(), claims, &self.signing).unwrap()
    }
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Good claims for an hour.
pub fn claims() -> Value {
    json!({"iss":ISSUER,"aud":AUDIENCE,"exp":now() + 3600,"sub":"ada","topics":["public.*"],"ingest":["/api/*"]})
}

/// Good claims, with one changed; `null` leaves it out.
pub fn claims_with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => claims[name] = value,
    }
    claims
}

/// `[auth.jwt]` with more lines; `audience` and `issuer` are there.
pub async fn access(lines: &str) -> Access {
    try_access(lines).await.unwrap_or_else(|e| panic!("{e}"))
}

pub async fn try_access(lines: &str) -> Result<Access, String> {
    let text = format!("[auth.jwt]\naudience = \"{AUDIENCE}\"\nissuer = \"{ISSUER}\"\n{lines}\n");
    of_config(&text).await
}

/// A whole file.
pub async fn of_config(text: &str) -> Result<Access, String> {
    let Config { auth, .. } = Config::parse(text).map_err(|e| e.to_string())?;
    let settings = AccessSettings { auth, trusted_proxies: vec!["127.0.0.2".parse().unwrap()], ..Default::default() };
    Access::new(settings).await.map_err(|e| e.to_string())
}

/// Access by a key set behind the URL.
pub async fn access_by_url(url: &str) -> Access {
    access(&format!("algorithms = [\"RS256\", \"ES256\", \"EdDSA\"]\njwks_url = \"{url}\"")).await
}

/// A server with a key set that can change, break, and count.
#[derive(Clone)]
pub struct Provider {
    pub url: String,
    state: Arc<ProviderState>,
}

struct ProviderState {
    answer: Mutex<(StatusCode, String)>,
    requests: AtomicUsize,
}

impl Provider {
    pub async fn start(keys: &[&Key]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::start_on(listener, keys)
    }

    pub fn start_on(listener: TcpListener, keys: &[&Key]) -> Self {
        let address = listener.local_addr().unwrap();
        let state = Arc::new(ProviderState { answer: Mutex::default(), requests: AtomicUsize::new(0) });
        let this = Self { url: jwks_url(address), state: state.clone() };
        this.serve(keys);
        let router = Router::new().route("/jwks", get(jwks)).route("/moved", get(moved)).with_state(state);
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        this
    }

    pub fn serve(&self, keys: &[&Key]) {
        let keys: Vec<&Value> = keys.iter().map(|key| &key.public).collect();
        self.answer(StatusCode::OK, json!({ "keys": keys }).to_string());
    }

    pub fn answer(&self, status: StatusCode, body: String) {
        *self.state.answer.lock().unwrap() = (status, body);
    }

    pub fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }
}

pub fn jwks_url(address: SocketAddr) -> String {
    format!("http://{address}/jwks")
}

async fn jwks(State(state): State<Arc<ProviderState>>) -> impl IntoResponse {
    state.requests.fetch_add(1, Ordering::SeqCst);
    let (status, body) = state.answer.lock().unwrap().clone();
    (status, [("location", "/moved")], body)
}

/// Where a redirect would lead, if it were followed.
async fn moved(State(state): State<Arc<ProviderState>>) -> impl IntoResponse {
    state.answer.lock().unwrap().1.clone()
}
