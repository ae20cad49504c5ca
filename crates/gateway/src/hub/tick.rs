//! What happens once a second to every connection: watermarks, pings, and the end of those that
//! have expired, gone silent, stuck, or do not answer a close.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use protocol::{Close, Source, message};

use super::{
    Hub, Speech, View,
    conn::{ConnKey, Sub},
    moment::{Moment, steps},
};

/// How long a client has to answer a close frame, once it no longer takes what comes before that.
const CLOSE_GRACE: Duration = Duration::from_secs(3);

/// How often a native client gets a watermark if it does not ask for another interval.
pub const WATERMARK: Duration = Duration::from_secs(25);

/// Why a connection has only so much time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// It has yet to show a token.
    NoToken,
    /// It has no channel, nor a token besides.
    NoChannel,
    /// It has no channel, and does not seem to want one.
    Idle,
    /// Its token ends.
    Token,
}

impl Expiry {
    fn close(self) -> Close {
        match self {
            Self::NoToken | Self::NoChannel | Self::Token => Close::Unauthorized,
            Self::Idle => Close::Normal,
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::NoToken => "no token came: send {\"type\":\"auth\",\"token\":…} first",
            Self::NoChannel => "no channel is joined: no token came, or it was refused each time",
            Self::Idle => "no channel is joined: connect again to join one",
            Self::Token => "the token has expired: connect with a fresh one",
        }
    }
}

/// The watermark of a feed, as each client understands it.
pub(super) struct FeedMark {
    source: Source,
    frame: Bytes,
    event: Bytes,
}

impl FeedMark {
    fn in_speech(&self, speech: Speech) -> Bytes {
        match speech {
            Speech::WebSocket | Speech::Realtime(_) => self.frame.clone(),
            Speech::Events => self.event.clone(),
        }
    }
}

/// How often a connection gets watermarks, in steps, and when the next is due.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watermark {
    every: u32,
    due: Moment,
}

/// What holds for all connections that are looked at.
struct Turn {
    now: Moment,
    ping: u32,
    stall: u32,
    close_grace: u32,
    watermarks: Vec<FeedMark>,
    clock: SystemTime,
}

impl Hub {
    /// Watermarks at this interval, or more often if that was asked for before.
    pub fn want_watermarks(&mut self, key: ConnKey, every: Duration) {
        let now = self.now();
        if let Some(conn) = self.conn_mut(key) {
            let every = conn.watermark.map_or(u32::MAX, |old| old.every).min(steps(every));
            conn.watermark = Some(Watermark { every, due: now.plus(every) });
        }
    }

    /// To be called once a second.
    pub fn tick(&mut self) {
        self.encoded.clear();
        if self.register.is_some() {
            self.routes.iter_mut().for_each(|(_, route)| route.rate.tick());
        }
        let turn = Turn {
            now: self.now(),
            ping: steps(self.settings.ping),
            stall: steps(self.settings.stall),
            close_grace: steps(CLOSE_GRACE),
            watermarks: self.watermarks(),
            clock: SystemTime::now(),
        };
        for key in self.keys() {
            self.tick_one(key, &turn);
        }
    }

    /// The watermark of each feed, as of now.
    pub(super) fn watermarks(&self) -> Vec<FeedMark> {
        let watermark = |(source, view): (&Source, &View)| {
            let (cursor, text) = (view.cursor(), message::watermark(&view.cursor(), view.at));
            let [frame, event] =
                [Speech::WebSocket, Speech::Events].map(|it| it.say("watermark", Some(&cursor), &text));
            FeedMark { source: *source, frame, event }
        };
        self.feeds.iter().map(watermark).collect()
    }

    fn tick_one(&mut self, key: ConnKey, turn: &Turn) {
        let now = turn.now;
        let Some(conn) = self.conn_mut(key) else { return };
        let stuck = conn.stuck_since.is_some_and(|since| since.is_over(turn.stall, now));
        let unanswered = conn.closing.is_some_and(|since| since.is_over(turn.close_grace, now));
        // Who gets events has nothing to say.
        let silent = conn.heard.is_over(turn.ping.saturating_mul(2), now) && conn.speech != Speech::Events;
        if stuck || unanswered || silent {
            if conn.closing.is_none() {
                self.metrics.closed(Close::TryAgainLater);
            }
            if let Some(conn) = self.conn(key) {
                conn.cut();
            }
            return;
        }
        if let Some((_, why)) = conn.expires.filter(|(at, _)| *at <= now) {
            self.close(key, why.close(), why.reason());
            return;
        }
        self.expire_channels(key, turn.clock);
        let Some(conn) = self.conn_mut(key) else { return };
        // A ping when it has been silent for the interval: one that says something needs none. Nor does one
        // whose socket is full, which shows by what it takes that it lives: the ping would wait behind all of
        // the ring, and who falls behind takes along what it has to be sent before.
        if !conn.full && conn.heard.is_over(turn.ping, now) && conn.pinged.is_over(turn.ping, now) {
            conn.pinged = now;
            let ping = conn.speech.ping();
            self.push(key.index, ping);
        }
        // What it has not got yet is before the watermark.
        if self.is_watermark_due(key, now) && self.has_all(key) {
            self.send_watermarks(key, now, &turn.watermarks);
        }
    }

    pub(super) fn is_watermark_due(&self, key: ConnKey, now: Moment) -> bool {
        self.conn(key).and_then(|conn| conn.watermark).is_some_and(|watermark| watermark.due <= now)
    }

    /// Whether a connection has been sent all that is in the ring of its stream.
    pub(super) fn has_all(&self, key: ConnKey) -> bool {
        let place = self.conn(key).and_then(|conn| conn.place);
        place.is_none_or(|place| self.streams.get(place.stream).is_at_head(place))
    }

    /// Sends the watermarks of those feeds on which it is up to date, behind everything else. One that
    /// catches up gets its watermark as soon as it has.
    pub(super) fn send_watermarks(&mut self, key: ConnKey, now: Moment, watermarks: &[FeedMark]) {
        let mut sent = false;
        let Some(speech) = self.conn(key).map(|conn| conn.speech) else { return };
        if matches!(speech, Speech::Realtime(_)) {
            self.send_channel_cursors(key);
            if let Some(watermark) = self.conn_mut(key).and_then(|conn| conn.watermark.as_mut()) {
                watermark.due = now.plus(watermark.every);
            }
            return;
        }
        for watermark in watermarks {
            if self.is_up_to_date_on(key, watermark.source) {
                self.send(key, watermark.in_speech(speech));
                sent = true;
            }
        }
        if let Some(conn) = self.conn_mut(key).filter(|conn| sent || conn.subs.is_empty())
            && let Some(watermark) = &mut conn.watermark
        {
            watermark.due = now.plus(watermark.every);
        }
    }

    /// Whether a connection has subscriptions on the feed of a source, all of them are live, and nothing
    /// waits to be conflated. The watermark of another one would be taken for a cursor of its own.
    fn is_up_to_date_on(&self, key: ConnKey, source: Source) -> bool {
        let Some(conn) = self.conn(key) else { return false };
        let Some(View { untold, last, .. }) = self.feeds.get(&source) else { return false };
        let route = |sub: &Sub| &self.routes[sub.route as usize];
        let mut on_it = conn.subs.iter().filter(|(_, sub)| route(sub).key.source == Some(source));
        let is_live = |(_, sub): (usize, &Sub)| {
            sub.is_live() && !route(sub).has_one_of(untold) && route(sub).head(*last) == *last
        };
        on_it.next().is_some_and(is_live) && on_it.all(is_live)
    }
}
