//! The public keys of a JSON Web Key Set, each for one algorithm.

use std::collections::HashSet;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::DecodingKey;
use protocol::config::Algorithm;
use serde::Deserialize;

/// Longest set in bytes, and most keys in it.
pub(super) const MAX_SET_BYTES: usize = 256 * 1024;
const MAX_KEYS: usize = 100;
/// A shorter RSA key can be broken; a longer one makes every signature check slow.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// The keys that can be used, and why others cannot.
pub(super) struct KeySet {
    keys: Vec<Key>,
    /// For the log: which key, and why not.
    pub(super) left_out: Vec<String>,
}

struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// What a token's header finds.
pub(super) enum Found<'a> {
    Key(&'a DecodingKey),
    /// No key has this id and algorithm: the set may be out of date.
    Unknown,
    /// The token names no key, and there are several for its algorithm.
    Ambiguous,
}

impl KeySet {
    /// Reads a set. A key that cannot be used is left out, because providers put keys for other
    /// purposes in the same set; a set in which nothing is left is an error.
    pub(super) fn parse(json: &[u8], allowed: &[Algorithm]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct RawSet {
            keys: Vec<serde_json::Value>,
        }
        let raw: RawSet = serde_json::from_slice(json)
            .map_err(|_| "it is not a JSON Web Key Set, which looks like {\"keys\":[{\"kty\":…}]}".to_owned())?;
        if raw.keys.len() > MAX_KEYS {
            return Err(format!("it has {} keys; at most {MAX_KEYS} are read", raw.keys.len()));
        }
        let mut set = Self { keys: Vec::new(), left_out: Vec::new() };
        let mut seen = HashSet::new();
        for (index, value) in raw.keys.into_iter().enumerate() {
            let key = serde_json::from_value::<RawKey>(value).map_err(|_| "it is not a key".to_owned());
            let name = match &key {
                Ok(RawKey { kid: Some(kid), .. }) => format!("'{}'", kid.escape_debug()),
                _ => format!("number {}", index + 1),
            };
            match key.and_then(|key| key.read(allowed)) {
                Ok(key) if key.id.is_some() && !seen.insert((key.id.clone(), key.algorithm)) => {
                    set.left_out.push(format!("{name}: an earlier key has the same kid"));
                }
                Ok(key) => set.keys.push(key),
                Err(reason) => set.left_out.push(format!("{name}: {reason}")),
            }
        }
        if set.keys.is_empty() {
            return Err(format!("it has no usable key for {allowed:?}; left out: [{}]", set.left_out.join("; ")));
        }
        Ok(set)
    }

    /// The key for a token. One that names no key gets the only one for its algorithm.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Found<'_> {
        let mut fitting = self.keys.iter().filter(|key| key.algorithm == algorithm);
        match id {
            Some(id) => match fitting.find(|key| key.id.as_deref() == Some(id)) {
                Some(key) => Found::Key(&key.key),
                None => Found::Unknown,
            },
            None => match (fitting.next(), fitting.next()) {
                (Some(key), None) => Found::Key(&key.key),
                (Some(_), Some(_)) => Found::Ambiguous,
                (None, _) => Found::Unknown,
            },
        }
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }
}

#[derive(Deserialize)]
struct RawKey {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<serde::de::IgnoredAny>,
}

impl RawKey {
    /// The key with the one algorithm that its kind is for: what a token's header says never
    /// decides how a key is used.
    fn read(self, allowed: &[Algorithm]) -> Result<Key, String> {
        if self.d.is_some() {
            return Err("it is a private key, so whoever can read this set can forge tokens".into());
        }
        if self.r#use.as_deref().is_some_and(|purpose| purpose != "sig")
            || self.key_ops.as_ref().is_some_and(|ops| !ops.iter().any(|op| op == "verify"))
        {
            return Err("it is not for signatures".into());
        }
        let (algorithm, names, key) = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => (Algorithm::RS256, &["RS256"][..], rsa(self.n.as_deref(), self.e.as_deref())?),
            ("EC", Some("P-256")) => (Algorithm::ES256, &["ES256"][..], p256(self.x.as_deref(), self.y.as_deref())?),
            // RFC 9864 renames EdDSA.
            ("OKP", Some("Ed25519")) => (Algorithm::EdDSA, &["EdDSA", "Ed25519"][..], ed25519(self.x.as_deref())?),
            ("oct", _) => return Err("it is a shared secret, which has no place in a set of public keys".into()),
            (kty, crv) => {
                let curve = crv.map(|crv| format!(" {}", crv.escape_debug())).unwrap_or_default();
                return Err(format!("keys of type {}{curve} are not supported", kty.escape_debug()));
            }
        };
        if let Some(alg) = self.alg.as_deref().filter(|alg| !names.contains(alg)) {
            return Err(format!("it is for {}, which is not supported", alg.escape_debug()));
        }
        if !allowed.contains(&algorithm) {
            return Err(format!("auth.jwt.algorithms does not have {algorithm:?}"));
        }
        Ok(Key { id: self.kid, algorithm, key })
    }
}

fn bytes(name: &str, value: Option<&str>) -> Result<Vec<u8>, String> {
    let value = value.ok_or_else(|| format!("{name} is missing"))?;
    URL_SAFE_NO_PAD.decode(value.trim_end_matches('=')).map_err(|_| format!("{name} is not base64url"))
}

fn rsa(n: Option<&str>, e: Option<&str>) -> Result<DecodingKey, String> {
    let (n, e) = (bytes("n", n)?, bytes("e", e)?);
    let without_zeros = |bytes: Vec<u8>| bytes.into_iter().skip_while(|b| *b == 0).collect::<Vec<u8>>();
    let (n, e) = (without_zeros(n), without_zeros(e));
    let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
    if !RSA_BITS.contains(&bits) {
        return Err(format!("its modulus has {bits} bits, but must have {} to {}", RSA_BITS.start(), RSA_BITS.end()));
    }
    // 1 makes every message its own signature; an even one is none.
    if e.is_empty() || e.len() > 4 || e == [1] || e.last().is_some_and(|last| last % 2 == 0) {
        return Err("its exponent cannot be used".into());
    }
    Ok(DecodingKey::from_rsa_raw_components(&n, &e))
}

fn p256(x: Option<&str>, y: Option<&str>) -> Result<DecodingKey, String> {
    let (x, y) = (bytes("x", x)?, bytes("y", y)?);
    if x.len() != 32 || y.len() != 32 {
        return Err("x and y must have 32 bytes".into());
    }
    // SEC 1: an uncompressed point. That it is on the curve is checked with every signature.
    Ok(DecodingKey::from_ec_der(&[&[4][..], &x, &y].concat()))
}

/// jsonwebtoken takes the first 32 bytes of whatever it gets, and panics on fewer.
fn ed25519(x: Option<&str>) -> Result<DecodingKey, String> {
    let x = bytes("x", x)?;
    if x.len() != 32 {
        return Err("x must have 32 bytes".into());
    }
    Ok(DecodingKey::from_ed_der(&x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ALL: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

    fn b64(bytes: usize) -> String {
        URL_SAFE_NO_PAD.encode(vec![0xff; bytes])
    }

    fn ed(more: serde_json::Value) -> serde_json::Value {
        let mut key = json!({"kty":"OKP","crv":"Ed25519","x":b64(32)});
        key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        key
    }

    fn parse(keys: &[serde_json::Value]) -> Result<KeySet, String> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes(), &ALL)
    }

    #[test]
    fn a_token_without_a_key_id_gets_the_only_key_of_its_algorithm() {
        let set = parse(&[ed(json!({"kid":"a"}))]).unwrap();
        assert!(matches!(set.find(None, Algorithm::EdDSA), Found::Key(_)));
        assert!(matches!(set.find(Some("a"), Algorithm::EdDSA), Found::Key(_)));
        assert!(matches!(set.find(Some("b"), Algorithm::EdDSA), Found::Unknown));
        assert!(matches!(set.find(Some("a"), Algorithm::ES256), Found::Unknown), "the key is for one algorithm");
        assert!(matches!(set.find(None, Algorithm::HS256), Found::Unknown));
        let two = parse(&[ed(json!({"kid":"a"})), ed(json!({"kid":"b"}))]).unwrap();
        assert!(matches!(two.find(None, Algorithm::EdDSA), Found::Ambiguous));
        assert!(matches!(two.find(Some("b"), Algorithm::EdDSA), Found::Key(_)));
    }

    #[test]
    fn a_key_that_cannot_be_used_is_left_out_with_its_reason() {
        let rsa = |bytes: usize, e: &str| json!({"kty":"RSA","n":b64(bytes),"e":e});
        for (key, reason) in [
            (rsa(128, "AQAB"), "1024 bits"),
            (rsa(1024, "AQAB"), "8192 bits"),
            (rsa(256, "AQ"), "exponent"),
            (rsa(256, "AgI"), "exponent"),
            (json!({"kty":"RSA","n":b64(256),"e":"AQAB","alg":"PS256"}), "PS256"),
            (json!({"kty":"RSA","n":b64(256),"e":"AQAB","alg":"HS256"}), "HS256"),
            (json!({"kty":"RSA","e":"AQAB"}), "n is missing"),
            (json!({"kty":"oct","k":b64(32)}), "shared secret"),
            (json!({"kty":"EC","crv":"P-384","x":b64(48),"y":b64(48)}), "P-384"),
            (json!({"kty":"EC","crv":"P-256","x":b64(31),"y":b64(32)}), "32 bytes"),
            (ed(json!({"x":b64(31)})), "32 bytes"),
            (ed(json!({"x":"not base64!"})), "base64url"),
            (ed(json!({"use":"enc"})), "not for signatures"),
            (ed(json!({"key_ops":["sign"]})), "not for signatures"),
            (ed(json!({"d":b64(32)})), "private key"),
            (ed(json!({"kid":"good"})), "same kid"),
            (json!("x"), "not a key"),
        ] {
            let set = parse(&[ed(json!({"kid":"good"})), key.clone()]).unwrap();
            assert_eq!(set.len(), 1, "{key}");
            assert!(set.left_out[0].contains(reason), "{key}: {:?}", set.left_out);
        }
    }

    #[test]
    fn a_set_without_a_usable_key_is_an_error() {
        for json in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#] {
            assert!(KeySet::parse(json.as_bytes(), &ALL).is_err(), "{json}");
        }
        let only = KeySet::parse(json!({"keys":[ed(json!({}))]}).to_string().as_bytes(), &[Algorithm::RS256]);
        assert!(only.map(drop).unwrap_err().contains("does not have EdDSA"));
    }
}
