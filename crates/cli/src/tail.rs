//! `rowcast tail`: changes of a topic in the terminal, resumed by itself.

mod shown;

use std::{
    io::{self, Write},
    time::Duration,
};

use anyhow::bail;
use clap::Parser;
use futures_util::{SinkExt, StreamExt};
use protocol::{Backoff, Cursor, Topic};
use serde_json::{Value, json};
use service::SettingsError;
use tokio_tungstenite::{
    connect_async,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest,
        http::{HeaderValue, Request, header::AUTHORIZATION},
        protocol::CloseFrame,
    },
};
use tokio_util::sync::CancellationToken;

use shown::Shown;

/// How often the gateway is asked to say that nothing was missed, and how long it may be silent.
const WATERMARK_MS: u64 = 5_000;
const SILENCE: Duration = Duration::from_secs(12);

/// Print the changes of a topic as they happen.
///
/// Goes on for ever: when the connection is lost it is made again, and continued from the last
/// change. What may have been missed is said on standard error, as all that is not a change.
#[derive(Parser)]
pub struct Tail {
    /// The topic: a watched table such as public.orders, or a NOTIFY channel.
    topic: Topic,

    /// A gateway, or the load balancer before several.
    #[arg(long, env = "ROWCAST_URL", default_value = "ws://127.0.0.1:8000", value_name = "URL")]
    url: String,

    /// Print each change as one line of JSON, as the gateway sent it; and the end of a transaction
    /// where its last change does not tell.
    #[arg(long)]
    json: bool,

    /// Begin after this change, as far as it is kept: a cursor of an earlier run.
    #[arg(long, value_name = "CURSOR")]
    since: Option<Cursor>,

    /// A token, where the gateway wants one.
    #[arg(long, env = "ROWCAST_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,

    /// End after this many changes.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

/// How a connection ended.
enum End {
    /// All that was asked for is printed, or nobody reads it any more.
    Done,
    /// Try again; the reason.
    Lost(String),
}

impl Tail {
    /// Runs until the shutdown, or until there is nothing more to do.
    pub async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        match shutdown.run_until_cancelled(Box::pin(self.follow())).await {
            Some(ended) => ended,
            None => Ok(()),
        }
    }

    async fn follow(&mut self) -> anyhow::Result<()> {
        self.request()?;
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            match self.connect(&mut backoff).await? {
                End::Done => return Ok(()),
                End::Lost(reason) => {
                    let delay = backoff.delay();
                    say(&format!("{reason}; trying again in {} ms", delay.as_millis()));
                    tokio::time::sleep(delay).await;
                }
            }
        }
    }

    fn request(&self) -> Result<Request<()>, SettingsError> {
        let wrong = |right: &str| SettingsError::Wrong {
            setting: "--url (ROWCAST_URL)".into(),
            value: self.url.clone(),
            right: right.into(),
        };
        let base = self.url.trim_end_matches('/');
        let base = match base.split_once("://") {
            Some(("ws" | "http", rest)) => format!("ws://{rest}"),
            Some(("wss" | "https", rest)) => format!("wss://{rest}"),
            Some(_) => return Err(wrong("a URL that starts with ws:// or wss://")),
            None => format!("ws://{base}"),
        };
        let mut request =
            format!("{base}/rowcast").into_client_request().map_err(|_| wrong("a URL such as ws://127.0.0.1:8000"))?;
        if let Some(token) = &self.token {
            // At once and not in a message: an application that is asked who this is hears of the
            // request alone.
            let bearer = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| SettingsError::Wrong {
                setting: "--token (ROWCAST_TOKEN)".into(),
                value: "(not shown)".into(),
                right: "a token without line breaks and other control characters".into(),
            })?;
            request.headers_mut().insert(AUTHORIZATION, bearer);
        }
        Ok(request)
    }

    async fn connect(&mut self, backoff: &mut Backoff) -> anyhow::Result<End> {
        let connecting = tokio::time::timeout(Duration::from_secs(10), connect_async(self.request()?)).await;
        let mut socket = match connecting {
            Ok(Ok((socket, _))) => socket,
            Ok(Err(Error::Http(response))) if response.status().is_client_error() => {
                let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
                bail!("{} refuses: {} {body}", self.url, response.status());
            }
            Ok(Err(error)) => return Ok(End::Lost(format!("cannot connect to {}: {error}", self.url))),
            Err(_) => return Ok(End::Lost(format!("{} does not answer", self.url))),
        };
        let mut subscribe = json!({ "type": "subscribe", "id": "tail", "topics": [self.topic], "watermark": { "every_ms": WATERMARK_MS } });
        if let Some(since) = &self.since {
            subscribe["since"] = since.to_string().into();
        }
        if let Err(error) = socket.send(Message::text(subscribe.to_string())).await {
            return Ok(End::Lost(error.to_string()));
        }
        loop {
            let message = match tokio::time::timeout(SILENCE, socket.next()).await {
                Ok(Some(Ok(message))) => message,
                Ok(Some(Err(error))) => return Ok(End::Lost(error.to_string())),
                Ok(None) => return Ok(End::Lost("the gateway hung up".into())),
                Err(_) => return Ok(End::Lost(format!("nothing came for {} s", SILENCE.as_secs()))),
            };
            match message {
                Message::Text(text) => {
                    if let Some(end) = self.take(&text, backoff)? {
                        return Ok(end);
                    }
                }
                Message::Close(close) => return closed(close),
                _ => {}
            }
        }
    }

    /// Acts on a message of the gateway; whether the connection is of no more use.
    fn take(&mut self, text: &str, backoff: &mut Backoff) -> anyhow::Result<Option<End>> {
        let message: Value = serde_json::from_str(text)?;
        let cursor = || message["cursor"].as_str().and_then(|cursor| cursor.parse::<Cursor>().ok());
        match message["type"].as_str().unwrap_or_default() {
            "hello" => say(&format!("connected to gateway {}", message["gateway"].as_str().unwrap_or("?"))),
            "subscribed" => {
                backoff.reset();
                let how = if message["resumed"] == true { "continued after" } else { "live from" };
                say(&format!("{} {how} {}", self.topic, message["cursor"].as_str().unwrap_or("?")));
                self.since = cursor().or(self.since.take());
            }
            "change" => {
                self.since = cursor();
                if !self.print(text) {
                    return Ok(Some(End::Done));
                }
                if let Some(count) = &mut self.count {
                    *count = count.saturating_sub(1);
                    if *count == 0 {
                        return Ok(Some(End::Done));
                    }
                }
            }
            "tx_end" => {
                self.since = cursor();
                if self.json && !self.print(text) {
                    return Ok(Some(End::Done));
                }
            }
            "watermark" | "caught_up" => self.since = cursor(),
            "reset" => {
                self.since = cursor();
                let reason = message["reason"].as_str().unwrap_or("?");
                say(&format!(
                    "changes may have been missed here ({reason}); live from {}",
                    message["cursor"].as_str().unwrap_or("?")
                ));
            }
            "error" => {
                let code = message["code"].as_str().unwrap_or("?");
                let reason = format!("{code}: {}", message["message"].as_str().unwrap_or("?"));
                if matches!(code, "not_ready" | "rate_limited") {
                    return Ok(Some(End::Lost(reason)));
                }
                bail!("{reason}");
            }
            _ => {}
        }
        Ok(None)
    }

    /// Whether somebody still reads what is printed.
    fn print(&self, text: &str) -> bool {
        let mut out = io::stdout().lock();
        let line = match Shown::of(text).filter(|_| !self.json) {
            Some(shown) => shown.line(),
            None => text.to_owned(),
        };
        writeln!(out, "{line}").and_then(|()| out.flush()).is_ok()
    }
}

fn closed(close: Option<CloseFrame>) -> anyhow::Result<End> {
    let Some(close) = close else { return Ok(End::Lost("the gateway hung up".into())) };
    let code = u16::from(close.code);
    let reason = if close.reason.is_empty() { String::new() } else { format!(": {}", close.reason) };
    let known = protocol::Close::ALL.into_iter().find(|known| known.code() == code);
    match known.map(protocol::Close::reconnect) {
        Some(protocol::Reconnect::AfterMending | protocol::Reconnect::AfterNewToken) => {
            bail!("the gateway closed with {code}{reason}")
        }
        _ => Ok(End::Lost(format!("the gateway closed with {code}{reason}"))),
    }
}

/// Says it on standard error.
pub fn say(what: &str) {
    // Nobody to say it to is no reason to stop.
    drop(writeln!(io::stderr(), "· {what}"));
}
