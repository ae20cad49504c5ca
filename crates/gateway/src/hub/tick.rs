//! What happens once a second to every connection: watermarks, pings, and the end of those that
//! have expired, gone silent, stuck, or do not answer a close.

use std::time::{Duration, Instant};

use bytes::Bytes;
use protocol::{Close, Source, message};

use super::{
    Hub, View,
    conn::{ConnKey, Sub},
};
use crate::ws;

/// How long a client has to answer a close frame.
const CLOSE_GRACE: Duration = Duration::from_secs(3);

/// How often a native client gets a watermark if it does not ask for another interval.
pub const WATERMARK: Duration = Duration::from_secs(25);

impl Hub {
    /// Watermarks at this interval, or more often if that was asked for before.
    pub fn want_watermarks(&mut self, key: ConnKey, every: Duration) {
        if let Some(conn) = self.conn_mut(key) {
            let every = conn.watermark.map_or(every, |(old, _)| old.min(every));
            conn.watermark = Some((every, Instant::now() + every));
        }
    }

    /// To be called once a second.
    pub fn tick(&mut self, now: Instant) {
        self.encoded.clear();
        let watermarks = self.watermarks();
        for key in self.keys() {
            self.tick_one(key, now, &watermarks);
        }
    }

    /// The watermark of each feed, as of now.
    pub(super) fn watermarks(&self) -> Vec<(Source, Bytes)> {
        let watermark = |view: &View| ws::text(&message::watermark(&view.cursor(), view.at));
        self.feeds.iter().map(|(source, view)| (*source, watermark(view))).collect()
    }

    fn tick_one(&mut self, key: ConnKey, now: Instant, watermarks: &[(Source, Bytes)]) {
        let (ping, stall) = (self.settings.ping, self.settings.stall);
        let Some(conn) = self.conn_mut(key) else { return };
        let stuck = conn.stuck_since.is_some_and(|since| now.duration_since(since) > stall);
        let unanswered = conn.closing.is_some_and(|since| now.duration_since(since) > CLOSE_GRACE);
        let silent = now.duration_since(conn.heard);
        if stuck || unanswered || silent > ping * 2 {
            if conn.closing.is_none() {
                self.metrics.closed(Close::TryAgainLater);
            }
            if let Some(conn) = self.conn(key) {
                conn.cut();
            }
            return;
        }
        if let Some((_, reason)) = conn.expires.filter(|(at, _)| *at <= now) {
            self.close(key, Close::Unauthorized, reason);
            return;
        }
        // A ping when it has been silent for the interval: one that says something needs none.
        if silent >= ping && now.duration_since(conn.pinged) >= ping {
            conn.pinged = now;
            self.push(key.index, ws::ping());
        }
        // What it has not got yet is before the watermark.
        if self.is_watermark_due(key, now) && self.has_all(key) {
            self.send_watermarks(key, now, watermarks);
        }
    }

    pub(super) fn is_watermark_due(&self, key: ConnKey, now: Instant) -> bool {
        self.conn(key).and_then(|conn| conn.watermark).is_some_and(|(_, due)| due <= now)
    }

    /// Whether a connection has been sent all that is in the ring of its stream.
    pub(super) fn has_all(&self, key: ConnKey) -> bool {
        let place = self.conn(key).and_then(|conn| conn.place);
        place.is_none_or(|place| self.streams.get(place.stream).is_at_head(place))
    }

    /// Sends the watermarks of those feeds on which it is up to date, behind everything else. One that
    /// catches up gets its watermark as soon as it has.
    pub(super) fn send_watermarks(&mut self, key: ConnKey, now: Instant, watermarks: &[(Source, Bytes)]) {
        let mut sent = false;
        for (source, frame) in watermarks {
            if self.is_up_to_date_on(key, *source) {
                self.send(key, frame.clone());
                sent = true;
            }
        }
        if let Some(conn) = self.conn_mut(key).filter(|conn| sent || conn.subs.is_empty())
            && let Some((every, _)) = conn.watermark
        {
            conn.watermark = Some((every, now + every));
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
