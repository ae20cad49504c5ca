use protocol::Cursor;
use serde_json::{Map, Value};

use super::binding::{Binding, shorten};

/// Most bindings of a channel: each change is compared with all of them.
const MAX_BINDINGS: usize = 100;

/// What a `phx_join` asks for.
#[derive(Debug, PartialEq)]
pub struct Join {
    /// What it wants of the database.
    pub bindings: Vec<Binding>,
    /// The bindings with their ids, as JSON, as the client compares them with its own.
    pub echo: String,
    /// Whether it wants cursors, and the one to go on from.
    pub resume: Option<Option<Cursor>>,
    /// Whether it wants its own broadcasts back.
    pub own: bool,
    /// Whether it wants to know that a broadcast was sent.
    pub ack: bool,
    /// The token, if it brings one that counts.
    pub token: Option<String>,
}

impl Join {
    /// Reads the payload of a join; what is wrong with it, as `Code: text`.
    pub fn of(channel: &str, payload: &Value) -> Result<Self, String> {
        let keys = match payload {
            Value::Object(keys) => keys,
            Value::Null => &Map::new(),
            _ => return Err("BadMessage: the payload of a join is an object".into()),
        };
        let config = match keys.get("config") {
            Some(Value::Object(config)) => config,
            None | Some(Value::Null) => &Map::new(),
            Some(_) => return Err("BadMessage: 'config' of a join is an object".into()),
        };
        if config.get("presence").is_some_and(|presence| presence["enabled"] == true) {
            return Err(format!("Unsupported: {NO_PRESENCE}"));
        }
        for key in ["replay", "replication_ready"] {
            if let Some(value) = config.get("broadcast").and_then(|broadcast| broadcast.get(key))
                && !matches!(value, Value::Null | Value::Bool(false))
            {
                return Err(format!("Unsupported: 'config.broadcast.{key}' is not served by this gateway"));
            }
        }
        let mut bound = match config.get("postgres_changes") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(list)) => list.clone(),
            Some(_) => return Err("BadMessage: 'config.postgres_changes' is a list of bindings".into()),
        };
        if bound.len() > MAX_BINDINGS {
            let count = bound.len();
            return Err(format!("BadMessage: {count} bindings on a channel; there may be {MAX_BINDINGS}"));
        }
        let mut bindings: Vec<Binding> = Vec::with_capacity(bound.len());
        for value in &mut bound {
            let Value::Object(keys) = value else {
                return Err(format!("BadMessage: {} is no binding, which is an object", shorten(&value.to_string())));
            };
            keys.remove("id");
            let mut binding = Binding::of(channel, keys)?;
            let before = bindings.iter().filter(|other| other.is_like(&binding)).count();
            binding.set_place(channel, before);
            keys.insert("id".into(), binding.id.into());
            bindings.push(binding);
        }
        let resume = match keys.get("resume") {
            None => None,
            Some(Value::Null) => Some(None),
            Some(Value::String(text)) if text.is_empty() => Some(None),
            Some(Value::String(text)) => Some(Some(text.parse().map_err(|e| format!("BadCursor: 'resume': {e}"))?)),
            Some(other) => {
                let shown = shorten(&other.to_string());
                return Err(format!(
                    "BadCursor: 'resume' is {shown}; it must be a cursor, or empty to be told of them"
                ));
            }
        };
        let flag = |name: &str| config.get("broadcast").is_some_and(|broadcast| broadcast[name] == true);
        let (own, ack) = (flag("self"), flag("ack"));
        let token = keys.get("access_token").or(keys.get("user_token"));
        Ok(Self { bindings, echo: Value::from(bound).to_string(), resume, own, ack, token: token_of(token)? })
    }
}

/// Why there is no presence.
pub const NO_PRESENCE: &str = "presence is not served by this gateway; leave out .on('presence', …), track() and \
                               config.presence.enabled";

/// A token, unless it is nothing, or one of those that only tell the client's own server to take the apikey.
pub fn token_of(value: Option<&Value>) -> Result<Option<String>, String> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(token)) if token.is_empty() || token.starts_with("sb_") => Ok(None),
        Some(Value::String(token)) => Ok(Some(token.clone())),
        Some(_) => Err("BadToken: 'access_token' must be a string".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn join(payload: &Value) -> Result<Join, String> {
        Join::of("realtime:floor", payload)
    }

    #[test]
    fn bindings_are_told_back_as_they_came_with_an_id_each() {
        let bound = json!([
            {"event": "*", "schema": "public", "table": "orders"},
            {"event": "*", "schema": "public", "table": "orders", "filter": ""},
            {"event": "DELETE", "schema": "*", "filter": null},
        ]);
        let presence = json!({"key": "", "enabled": false});
        let config = json!({"broadcast": {"ack": false, "self": true}, "presence": presence, "postgres_changes": bound, "private": true});
        let join = join(&json!({"config": config, "access_token": "t", "version": "x"})).unwrap();
        let mut echo: Value = serde_json::from_str(&join.echo).unwrap();
        let ids: Vec<u64> = join.bindings.iter().map(|binding| binding.id).collect();
        for (value, id) in echo.as_array_mut().unwrap().iter_mut().zip(&ids) {
            assert_eq!(value.as_object_mut().unwrap().remove("id"), Some(json!(id)));
        }
        assert_eq!(echo, bound);
        assert!(ids[0] != ids[1] && ids[1] != ids[2], "{ids:?}");
        assert_eq!((join.token.as_deref(), join.resume), (Some("t"), None));
    }

    #[test]
    fn a_join_may_be_nearly_empty() {
        for payload in [json!({}), json!(null), json!({"config": null})] {
            assert_eq!(join(&payload).unwrap().echo, "[]");
        }
        assert_eq!(join(&json!({"access_token": "sb_publishable_x", "resume": ""})).unwrap().token, None);
        assert_eq!(join(&json!({"resume": "k3f9.7"})).unwrap().resume, Some("k3f9.7".parse().ok()));
    }

    #[test]
    fn what_is_not_served_is_refused_by_name() {
        for (payload, named) in [
            (json!({"config": {"presence": {"enabled": true}}}), "Unsupported: presence"),
            (json!({"config": {"broadcast": {"replay": {"since": 1}}}}), "'config.broadcast.replay'"),
            (json!({"config": {"postgres_changes": {}}}), "'config.postgres_changes'"),
            (json!({"config": {"postgres_changes": [7]}}), "7 is no binding"),
            (json!({"config": {"postgres_changes": vec![json!({"event": "*", "schema": "a"}); 101]}}), "101 bindings"),
            (json!({"config": []}), "'config'"),
            (json!({"resume": "nonsense"}), "BadCursor: 'resume'"),
            (json!({"resume": 7}), "'resume' is 7"),
            (json!({"access_token": 7}), "BadToken"),
            (json!([]), "BadMessage"),
        ] {
            let why = join(&payload).unwrap_err();
            assert!(why.contains(named), "{payload}: {why}");
        }
    }
}
