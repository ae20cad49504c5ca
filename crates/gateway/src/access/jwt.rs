//! `[auth.jwt]`: tokens that the gateway checks itself.

use std::time::Duration;

use jsonwebtoken::{DecodingKey, Validation, errors::ErrorKind};
use protocol::config::{self, Algorithm};
use service::SettingsError;

use super::{
    Claims, Denied,
    claims::RawClaims,
    key_source::KeySource,
    token::{MAX_TOKEN_BYTES, Token},
};

/// As long as the hash: with a shorter one it is easier to guess the secret than to break the hash.
const MIN_SECRET_BYTES: usize = 32;
const MAX_LEEWAY_S: u64 = 300;

pub(super) struct Jwt {
    algorithms: Vec<Algorithm>,
    secret: Option<DecodingKey>,
    keys: Option<KeySource>,
    audience: String,
    issuer: String,
    leeway: Duration,
    cookie: Option<String>,
}

impl Jwt {
    pub(super) async fn new(jwt: &config::Jwt) -> Result<Self, SettingsError> {
        if jwt.leeway_s > MAX_LEEWAY_S {
            return Err(SettingsError::Wrong {
                setting: "auth.jwt.leeway_s".into(),
                value: jwt.leeway_s.to_string(),
                right: format!("at most {MAX_LEEWAY_S}: so much longer does a token live"),
            });
        }
        let keys = match (&jwt.jwks_file, &jwt.jwks_url) {
            (Some(path), _) => Some(KeySource::of_file(path, &jwt.algorithms).await?),
            (None, Some(url)) => Some(KeySource::of_url(url, &jwt.algorithms)?),
            (None, None) => None,
        };
        Ok(Self {
            algorithms: jwt.algorithms.clone(),
            secret: secret(jwt).await?.map(|secret| DecodingKey::from_secret(&secret)),
            keys,
            audience: jwt.audience.clone(),
            issuer: jwt.issuer.clone(),
            leeway: Duration::from_secs(jwt.leeway_s),
            cookie: jwt.cookie.clone(),
        })
    }

    pub(super) fn cookie(&self) -> Option<&str> {
        self.cookie.as_deref()
    }

    /// Checks a token. The algorithm that its header names must be allowed, and then only chooses
    /// among keys that are for this algorithm.
    pub(super) async fn verify(&self, token: &Token) -> Result<Claims, Denied> {
        let token = token.as_str();
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Denied::bad_token(format!("the token has more than {MAX_TOKEN_BYTES} bytes")));
        }
        // `none` is no algorithm to jsonwebtoken, so it ends here too.
        let header = jsonwebtoken::decode_header(token).map_err(|_| {
            Denied::bad_token("the token is not a JSON Web Token, or its algorithm is not one that is known here")
        })?;
        if header.crit.is_some() || header.enc.is_some() || header.zip.is_some() {
            return Err(Denied::bad_token("the token's header asks for what is not known here (crit, enc, zip)"));
        }
        let algorithm = ours(header.alg)
            .filter(|algorithm| self.algorithms.contains(algorithm))
            .ok_or_else(|| Denied::bad_token(format!("tokens with {:?} are not taken here", header.alg)))?;
        let key = match (algorithm, &self.secret, &self.keys) {
            (Algorithm::HS256, Some(secret), _) => secret.clone(),
            (Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA, _, Some(keys)) => {
                keys.key(header.kid.as_deref(), algorithm).await?
            }
            _ => return Err(Denied::bad_token(format!("there is no key for {algorithm:?}"))),
        };
        let data = jsonwebtoken::decode::<RawClaims>(token, &key, &self.validation(header.alg)).map_err(refusal)?;
        Ok(data.claims.into_claims(self.leeway))
    }

    fn validation(&self, algorithm: jsonwebtoken::Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.set_required_spec_claims(&["exp", "aud", "iss"]);
        validation.set_audience(&[&self.audience]);
        validation.set_issuer(&[&self.issuer]);
        validation.validate_nbf = true;
        validation.leeway = self.leeway.as_secs();
        validation
    }
}

fn ours(algorithm: jsonwebtoken::Algorithm) -> Option<Algorithm> {
    match algorithm {
        jsonwebtoken::Algorithm::HS256 => Some(Algorithm::HS256),
        jsonwebtoken::Algorithm::RS256 => Some(Algorithm::RS256),
        jsonwebtoken::Algorithm::ES256 => Some(Algorithm::ES256),
        jsonwebtoken::Algorithm::EdDSA => Some(Algorithm::EdDSA),
        _ => None,
    }
}

/// Fixed words: the library's own can hold pieces of the token.
fn refusal(error: jsonwebtoken::errors::Error) -> Denied {
    Denied::bad_token(match error.kind() {
        ErrorKind::ExpiredSignature => "the token has expired".to_owned(),
        ErrorKind::ImmatureSignature => "the token is not valid yet (nbf)".to_owned(),
        ErrorKind::InvalidAudience => "the token is for another audience (aud)".to_owned(),
        ErrorKind::InvalidIssuer => "the token is from another issuer (iss)".to_owned(),
        ErrorKind::MissingRequiredClaim(claim) => format!("the token has no usable claim '{claim}'"),
        ErrorKind::InvalidSignature => "the token's signature is wrong".to_owned(),
        ErrorKind::Json(_) => "the token's claims cannot be read: exp is a number, sub a string, topics and ingest \
                               are lists of strings"
            .to_owned(),
        _ => "the token cannot be checked".to_owned(),
    })
}

/// The secret's bytes as they stand (no base64), but for the line break that editors add.
async fn secret(jwt: &config::Jwt) -> Result<Option<Vec<u8>>, SettingsError> {
    let (setting, value, secret) = match (&jwt.secret_env, &jwt.secret_file) {
        (Some(name), _) => {
            let secret = std::env::var(name).map_err(|_| SettingsError::Wrong {
                setting: "auth.jwt.secret_env".into(),
                value: name.clone(),
                right: "an environment variable that is set, to the secret of HS256".into(),
            })?;
            ("auth.jwt.secret_env", name, secret.into_bytes())
        }
        (None, Some(path)) => {
            let mut secret = tokio::fs::read(path).await.map_err(|e| SettingsError::Wrong {
                setting: "auth.jwt.secret_file".into(),
                value: path.clone(),
                right: format!("a file with the secret of HS256: {e}"),
            })?;
            for end in [b'\n', b'\r'] {
                if secret.last() == Some(&end) {
                    secret.pop();
                }
            }
            ("auth.jwt.secret_file", path, secret)
        }
        (None, None) => return Ok(None),
    };
    let wrong = |right: String| SettingsError::Wrong { setting: setting.into(), value: value.clone(), right };
    if secret.starts_with(b"-----BEGIN") {
        // Everybody has a public key: it would let everybody sign.
        return Err(wrong("the place of a shared secret, and what is there is a key pair's PEM".into()));
    }
    if secret.len() < MIN_SECRET_BYTES {
        return Err(wrong(format!(
            "the place of a secret of at least {MIN_SECRET_BYTES} bytes, and there are {} (openssl rand -base64 48 \
             makes one)",
            secret.len()
        )));
    }
    Ok(Some(secret))
}
