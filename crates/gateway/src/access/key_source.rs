//! Where the public keys come from, and how they stay fresh.
//!
//! One task owns the source and publishes each set that it could read. A source that fails, or
//! serves something unusable, changes nothing: the keys that were known go on working.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use jsonwebtoken::DecodingKey;
use protocol::{Backoff, config::Algorithm};
use reqwest::{Client, Url};
use service::SettingsError;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::{
    Denied, fetch,
    key_set::{Found, KeySet, MAX_SET_BYTES},
};

const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a URL is read anyway, so that a key that was withdrawn is forgotten.
const URL_EVERY: Duration = Duration::from_secs(600);
/// How often a token with an unknown key may cause a fetch: anybody can send such tokens.
const URL_ASKED_EVERY: Duration = Duration::from_secs(30);
/// How often a file is looked at; reading one is cheap.
const FILE_EVERY: Duration = Duration::from_secs(2);
const FILE_ASKED_EVERY: Duration = Duration::from_millis(250);
/// Tokens with unknown keys that wait for one fetch; more are refused without it.
const MAX_ASKING: usize = 256;

type Keys = Option<Arc<KeySet>>;

/// A handle to the task; the task ends with the last of them.
pub(super) struct KeySource {
    keys: watch::Receiver<Keys>,
    ask: mpsc::Sender<oneshot::Sender<()>>,
}

impl KeySource {
    /// A file must be readable now; a mistake in it is a mistake in the settings.
    pub(super) async fn of_file(path: &str, algorithms: &[Algorithm]) -> Result<Self, SettingsError> {
        let mut place = Place::File { path: path.into(), seen: None };
        let set = match place.read().await {
            Ok(json) => KeySet::parse(&json.unwrap_or_default(), algorithms),
            Err(problem) => Err(problem),
        };
        let set = set.map_err(|problem| SettingsError::Wrong {
            setting: "auth.jwt.jwks_file".into(),
            value: path.into(),
            right: format!("a file with a JSON Web Key Set: {problem}"),
        })?;
        Ok(Self::start(place, algorithms, Some(set)))
    }

    /// A URL is read as soon as it can be: a provider that is down must not keep the gateway down.
    pub(super) fn of_url(url: &str, algorithms: &[Algorithm]) -> Result<Self, SettingsError> {
        let url = fetch::url("auth.jwt.jwks_url", url)?;
        let client = fetch::client("auth.jwt.jwks_url", &url, FETCH_TIMEOUT)?;
        let local = url.host_str().is_some_and(super::origin::is_loopback_authority);
        if url.scheme() == "http" && !local {
            tracing::warn!(
                url = fetch::shown(&url),
                "auth.jwt.jwks_url is not https://: who can change its answer on the way can forge tokens"
            );
        }
        Ok(Self::start(Place::Url { client, url }, algorithms, None))
    }

    fn start(place: Place, algorithms: &[Algorithm], first: Option<KeySet>) -> Self {
        let first = first.map(|set| {
            log_left_out(&place, &set);
            Arc::new(set)
        });
        let (publish, keys) = watch::channel(first);
        let (ask, asked) = mpsc::channel(MAX_ASKING);
        let task = Refresher { place, algorithms: algorithms.into(), publish, asked, last_asked: None, failing: false };
        tokio::spawn(task.run());
        Self { keys, ask }
    }

    /// The key for a token's header. If it is unknown the source is read again, as often as that
    /// may be.
    pub(super) async fn key(&self, id: Option<&str>, algorithm: Algorithm) -> Result<DecodingKey, Denied> {
        let mut keys = self.keys.clone();
        let first = tokio::time::timeout(FETCH_TIMEOUT, keys.wait_for(Option::is_some)).await;
        let there = matches!(first, Ok(Ok(_)));
        // What it holds is a lock.
        drop(first);
        if !there {
            return Err(Denied::not_ready("the keys that tokens are checked with are not there yet: try again"));
        }
        for again in [true, false] {
            let set = keys.borrow().clone();
            match set.as_deref().map(|set| set.find(id, algorithm)) {
                Some(Found::Key(key)) => return Ok(key.clone()),
                Some(Found::Ambiguous) => {
                    return Err(Denied::bad_token("the token names no key (kid), and there are several"));
                }
                Some(Found::Unknown) | None if again => self.refresh().await,
                Some(Found::Unknown) | None => {}
            }
        }
        Err(Denied::bad_token("the token was signed with a key that is not known here"))
    }

    async fn refresh(&self) {
        let (done, wait) = oneshot::channel();
        if self.ask.try_send(done).is_ok() {
            // An error says that the task ended or the time is over: the keys stay what they were.
            drop(tokio::time::timeout(FETCH_TIMEOUT, wait).await);
        }
    }
}

enum Place {
    File { path: PathBuf, seen: Option<(SystemTime, u64)> },
    Url { client: Client, url: Url },
}

impl Place {
    /// The text, or `None` if it cannot have changed.
    async fn read(&mut self) -> Result<Option<Vec<u8>>, String> {
        match self {
            Self::File { path, seen } => {
                let metadata = tokio::fs::metadata(&*path).await.map_err(|e| e.to_string())?;
                let modified = metadata.modified().map_err(|e| e.to_string())?;
                if metadata.len() > MAX_SET_BYTES as u64 {
                    return Err(format!("it has more than {MAX_SET_BYTES} bytes"));
                }
                let now = Some((modified, metadata.len()));
                if *seen == now {
                    return Ok(None);
                }
                let text = tokio::fs::read(&*path).await.map_err(|e| e.to_string())?;
                *seen = now;
                Ok(Some(text))
            }
            Self::Url { client, url } => match fetch::get(client.get(url.clone()), MAX_SET_BYTES).await? {
                (status, body) if status.is_success() => Ok(Some(body)),
                (status, _) => Err(format!("it answered {status}")),
            },
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::File { path, .. } => path.display().to_string(),
            Self::Url { url, .. } => fetch::shown(url),
        }
    }

    fn every(&self) -> Duration {
        if matches!(self, Self::File { .. }) { FILE_EVERY } else { URL_EVERY }
    }

    fn asked_every(&self) -> Duration {
        if matches!(self, Self::File { .. }) { FILE_ASKED_EVERY } else { URL_ASKED_EVERY }
    }
}

struct Refresher {
    place: Place,
    algorithms: Vec<Algorithm>,
    publish: watch::Sender<Keys>,
    asked: mpsc::Receiver<oneshot::Sender<()>>,
    /// When the last fetch began that a token caused.
    last_asked: Option<Instant>,
    failing: bool,
}

impl Refresher {
    async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        let mut next = match &self.place {
            Place::File { .. } => Instant::now() + FILE_EVERY,
            Place::Url { .. } => Instant::now(),
        };
        loop {
            // Dropped at the end of the round, which tells those who wait for it.
            let mut waiting = Vec::new();
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                asked = self.asked.recv() => match asked {
                    Some(done) => waiting.push(done),
                    None => return,
                },
            }
            while let Ok(done) = self.asked.try_recv() {
                waiting.push(done);
            }
            let due = Instant::now() >= next;
            let may_ask = self.last_asked.is_none_or(|at| at.elapsed() >= self.place.asked_every());
            if due || may_ask {
                if !due {
                    self.last_asked = Some(Instant::now());
                }
                let fine = Box::pin(self.refresh()).await;
                if fine {
                    backoff.reset();
                }
                let every = self.place.every();
                next = Instant::now() + if fine { every } else { backoff.delay().min(every) };
            }
        }
    }

    async fn refresh(&mut self) -> bool {
        let set = match self.place.read().await {
            Ok(None) => return !self.failing,
            Ok(Some(json)) => KeySet::parse(&json, &self.algorithms),
            Err(problem) => Err(problem),
        };
        match set {
            Ok(set) => {
                tracing::info!(from = self.place.shown(), keys = set.len(), "read the keys for tokens");
                log_left_out(&self.place, &set);
                self.failing = false;
                self.publish.send_replace(Some(Arc::new(set)));
                true
            }
            Err(problem) => {
                let known = self.publish.borrow().as_ref().map_or(0, |set| set.len());
                if !self.failing {
                    tracing::warn!(
                        from = self.place.shown(),
                        known,
                        "cannot read the keys for tokens, trying again; those known go on working: {problem}"
                    );
                }
                self.failing = true;
                false
            }
        }
    }
}

fn log_left_out(place: &Place, set: &KeySet) {
    if !set.left_out.is_empty() {
        tracing::debug!(from = place.shown(), "keys that are not used: {}", set.left_out.join("; "));
    }
}
