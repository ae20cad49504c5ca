//! Subscriptions come and go: joining a route, leaving it, and the answers that a client gets.

use std::{collections::HashMap, rc::Rc, time::Duration};

use protocol::{
    Cursor, ErrorCode, ResetReason, Source, Topic,
    config::Wrap,
    message::{self, Subscribe},
};
use slab::Slab;

use super::{
    Hub, Speech, Step, Task, View,
    carried::Carried,
    conflate::Conflating,
    conn::{Behind, ConnKey, Sub, SubKey, SubState},
    route::{Frames, Rate, Route, RouteForm, RouteKey},
};

/// Why a subscription is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(pub ErrorCode, pub String);

impl Hub {
    /// How far the feeds are.
    pub fn positions(&self) -> Vec<(Source, Cursor)> {
        self.feeds.iter().map(|(source, view)| (*source, view.cursor())).collect()
    }

    /// Subscribes a plain endpoint: live from when its request was answered, so that a page that is
    /// open misses nothing. `since` are the positions of then. The topics need not be carried yet.
    pub fn subscribe_plain(&mut self, key: ConnKey, topics: &[Topic], wrap: Wrap, since: &[(Source, Cursor)]) {
        if self.conn(key).is_none() {
            return;
        }
        let form = RouteForm::Plain(wrap);
        let route = self.hold_route(RouteKey { topics: topics.into(), source: None, form, conflate_ms: None, twin: 0 });
        let sub = self.insert_sub(key, "".into(), route, false);
        let begins = |source: Source, view: &View| {
            let then = since.iter().find(|(of, cursor)| *of == source && cursor.feed == view.feed);
            then.map_or(view.began, |(_, cursor)| cursor.offset)
        };
        let cursor = |(source, view): (&Source, &View)| Cursor::new(view.feed.clone(), begins(*source, view));
        let began = self.feeds.iter().map(cursor).collect();
        self.note_began(sub, began, false);
        let behind = |(&source, view): (&Source, &View)| {
            let (feed, after) = (view.feed.clone(), begins(source, view));
            Behind { source, feed, after, open: None, waits_for_room: false }
        };
        let carried = |source: &Source| topics.iter().any(|topic| self.carriers.get(topic) == Some(source));
        let mut of_it: Vec<Behind> = self.feeds.iter().filter(|(source, _)| carried(source)).map(behind).collect();
        let has_missed = of_it.iter().any(|it| self.feeds.get(&it.source).is_some_and(|view| it.after < view.last));
        match of_it.pop() {
            Some(behind) if has_missed && of_it.is_empty() => {
                self.conns[key.index as usize].subs[sub.index as usize].state = SubState::Behind(Box::new(behind));
                self.catch_up_at_once(sub);
            }
            Some(behind) if has_missed => {
                of_it.push(behind);
                self.catch_up_on_several(sub, of_it);
            }
            _ => self.attach(key.index, sub.index),
        }
    }

    /// Subscribes a native client, or one that gets events. It is answered with `subscribed` as soon as it is known whether
    /// it can be resumed, which may take a read of the history.
    /// A refusal names the topics that there are, as far as the client may see them.
    pub fn subscribe(
        &mut self,
        key: ConnKey,
        wanted: Subscribe,
        may_see: impl Fn(&str) -> bool,
    ) -> Result<(), Refusal> {
        let most = self.settings.max_subscriptions;
        let Some(conn) = self.conn(key) else { return Ok(()) };
        let speech = conn.speech;
        if conn.subs.len() >= most {
            let message = format!("this connection has {most} subscriptions, and may not have more");
            return Err(Refusal(ErrorCode::TooManySubscriptions, message));
        }
        let taken = |id: &str| conn.subs.iter().any(|(_, sub)| *sub.id == *id);
        let id = match wanted.id {
            Some(id) if taken(&id) => {
                let message = format!("'{id}' is subscribed already; unsubscribe it first, or choose another id");
                return Err(Refusal(ErrorCode::DuplicateId, message));
            }
            Some(id) => id,
            None => (1..).map(|n| format!("s{n}")).find(|id| !taken(id)).unwrap_or_default(),
        };
        let source = self.one_source(&wanted.topics, wanted.since.as_ref(), may_see)?;
        if wanted.conflate_ms.is_some() {
            self.check_keys(source, &wanted.topics)?;
        }
        if let Some(every) = wanted.watermark_ms {
            self.want_watermarks(key, std::time::Duration::from_millis(every));
        }
        let twin = self.free_twin(key, &wanted.topics);
        let (topics, form) = (wanted.topics.into(), speech.form());
        let conflate_ms = wanted.conflate_ms;
        let route = self.hold_route(RouteKey { topics, source: Some(source), form, conflate_ms, twin });
        let view = &self.feeds[&source];
        let here = Cursor::new(view.feed.clone(), self.routes[route as usize].head(view.last));
        let sub = self.insert_sub(key, id.into(), route, true);
        let resumed = wanted.since.is_some();
        self.note_began(sub, vec![wanted.since.clone().unwrap_or_else(|| here.clone())], resumed);
        match wanted.since {
            None => {
                self.answer(key.index, sub.index, &here, false);
                self.attach(key.index, sub.index);
            }
            Some(since) => {
                let behind =
                    Behind { source, feed: since.feed, after: since.offset, open: None, waits_for_room: false };
                self.conns[key.index as usize].subs[sub.index as usize].state = SubState::Behind(Box::new(behind));
                self.catch_up_at_once(sub);
            }
        }
        Ok(())
    }

    /// A short absence is over here and now: one step for the changes, one to find that there are no
    /// more.
    pub(super) fn catch_up_at_once(&mut self, sub: SubKey) {
        for _ in 0..2 {
            match self.catch_up(sub) {
                // With who waits for room, the write that makes it begins a task: two would send twice.
                Step::Live | Step::Gone | Step::NoRoom => return,
                Step::Again | Step::Ahead(_) | Step::History(..) => {}
            }
        }
        self.tasks.push(Task::CatchUp(sub));
    }

    pub(super) fn insert_sub(&mut self, conn: ConnKey, id: Box<str>, route: u32, unanswered: bool) -> SubKey {
        let generation = self.next_generation();
        let sub = Sub { generation, id, route, unanswered, state: SubState::Held };
        let subs = &mut self.conns[conn.index as usize].subs;
        if subs.capacity() == 0 {
            // Most connections have one, and the first insert would make room for four.
            *subs = Slab::with_capacity(1);
        }
        let index = subs.insert(sub) as u32;
        SubKey { conn, index, generation }
    }

    /// The first that no subscription of the connection to these topics has.
    fn free_twin(&self, key: ConnKey, topics: &[Topic]) -> u32 {
        let routes = self.conns[key.index as usize].subs.iter().map(|(_, sub)| &self.routes[sub.route as usize].key);
        let taken: Vec<u32> = routes.filter(|route| *route.topics == *topics).map(|route| route.twin).collect();
        (0..).find(|twin| !taken.contains(twin)).unwrap_or_default()
    }

    /// Ends a subscription of a native client; whether there was one.
    pub fn unsubscribe(&mut self, key: ConnKey, id: &str) -> bool {
        let Some(conn) = self.conn(key) else { return false };
        let Some(sub) = conn.subs.iter().find(|(_, sub)| *sub.id == *id).map(|(sub, _)| sub as u32) else {
            return false;
        };
        self.remove_sub(key.index, sub);
        true
    }

    /// Ends the subscriptions that a fresh token no longer covers, and says so.
    pub fn recheck(&mut self, key: ConnKey, may_subscribe: impl Fn(&str) -> bool) {
        let Some(conn) = self.conn(key) else { return };
        let lost: Vec<(u32, Topic)> = conn
            .subs
            .iter()
            .filter_map(|(sub, it)| {
                let topics = &self.routes[it.route as usize].key.topics;
                let lost = topics.iter().find(|topic| !may_subscribe(topic.as_str()))?;
                Some((sub as u32, lost.clone()))
            })
            .collect();
        for (sub, topic) in lost {
            let text = format!("the new token does not cover '{topic}'; this subscription has ended");
            self.end_with(key, sub, ErrorCode::Forbidden, &text);
        }
    }

    /// Ends subscriptions, but for plain ones, to topics that their source does not carry any more, and says so:
    /// nothing would ever come, and its watermarks would say that nothing was missed.
    pub(super) fn end_uncarried(&mut self) {
        let gone_of = |route: &Route| {
            let catalogue = &self.feeds.get(&route.key.source?)?.catalogue;
            route.key.topics.iter().find(|topic| catalogue.get(topic.as_str()).is_none()).cloned()
        };
        let gone: HashMap<u32, Topic> =
            self.routes.iter().filter_map(|(index, route)| Some((index as u32, gone_of(route)?))).collect();
        if gone.is_empty() {
            return;
        }
        let ended: Vec<(ConnKey, u32, Topic)> = self
            .conns
            .iter()
            .flat_map(|(index, conn)| {
                let key = ConnKey { index: index as u32, generation: conn.generation };
                let of_gone = |(sub, it): (usize, &Sub)| Some((key, sub as u32, gone.get(&it.route)?.clone()));
                conn.subs.iter().filter_map(of_gone).collect::<Vec<_>>()
            })
            .collect();
        for (key, sub, topic) in ended {
            let text = match self.carried(topic.as_str()) {
                Carried::By(source) => format!("'{topic}' is now of the {source} source: subscribe to it again"),
                Carried::ByNone | Carried::Unknown => {
                    format!("no listener carries '{topic}' any more; this subscription has ended")
                }
            };
            self.end_with(key, sub, ErrorCode::UnknownTopic, &text);
        }
    }

    fn end_with(&mut self, key: ConnKey, sub: u32, code: ErrorCode, text: &str) {
        let id = self.conns[key.index as usize].subs[sub as usize].id.clone();
        self.metrics.error(code);
        let speech = self.conns[key.index as usize].speech;
        if matches!(speech, Speech::Realtime(_)) {
            return self.fail_channel(key, &id, text);
        }
        self.send(key, speech.refuse(&id, code, text));
        self.remove_sub(key.index, sub);
        if speech == Speech::Events {
            // It was for this alone. Who comes back is told by the answer.
            self.close(key, protocol::Close::TryAgainLater, text);
        }
    }

    pub(super) fn hold_route(&mut self, key: RouteKey) -> u32 {
        if let Some(&route) = self.route_keys.get(&key) {
            self.routes[route as usize].subs += 1;
            return route;
        }
        let id = self.next_route;
        self.next_route += 1;
        let (streams, frames) = (Vec::new(), Frames::default());
        let conflating = key.conflate_ms.map(|ms| Box::new(Conflating::new(Duration::from_millis(ms))));
        let rate = Rate::default();
        let route = Route { id, key: key.clone(), subs: 1, streams, open: None, frames, conflating, rate };
        let index = self.routes.insert(route) as u32;
        for topic in key.topics.iter() {
            self.by_topic.entry(topic.clone()).or_default().push(index);
        }
        self.route_keys.insert(key, index);
        index
    }

    fn release_route(&mut self, index: u32) {
        let route = &mut self.routes[index as usize];
        route.subs -= 1;
        if route.subs > 0 {
            return;
        }
        let key = self.routes.remove(index as usize).key;
        for topic in key.topics.iter() {
            if let Some(routes) = self.by_topic.get_mut(topic) {
                routes.retain(|&r| r != index);
                if routes.is_empty() {
                    self.by_topic.remove(topic);
                }
            }
        }
        self.open.retain(|&r| r != index);
        self.route_keys.remove(&key);
        self.encoded.clear();
    }

    /// Makes a subscription live: from the next batch on it gets what its route gets.
    pub(super) fn attach(&mut self, conn: u32, sub: u32) {
        self.conns[conn as usize].subs[sub as usize].state = SubState::Live;
        self.restream(conn);
        self.tell_subscribed(conn, sub);
    }

    /// Takes a subscription that is live off its route.
    fn detach(&mut self, conn: u32, sub: u32) {
        let it = &mut self.conns[conn as usize].subs[sub as usize];
        if it.is_live() {
            it.state = SubState::Held;
            self.restream(conn);
        }
    }

    pub(super) fn remove_sub(&mut self, conn: u32, sub: u32) {
        self.note_ended(conn, sub);
        self.detach(conn, sub);
        let route = self.conns[conn as usize].subs.remove(sub as usize).route;
        self.release_route(route);
    }

    /// Sends `subscribed`, once.
    pub(super) fn answer(&mut self, conn: u32, sub: u32, cursor: &Cursor, resumed: bool) {
        let speech = self.conns[conn as usize].speech;
        let it = &mut self.conns[conn as usize].subs[sub as usize];
        // A channel was answered when it was joined.
        if std::mem::replace(&mut it.unanswered, false) && !matches!(speech, Speech::Realtime(_)) {
            let to = speech.name(&it.id).map(|id| (id, self.routes[it.route as usize].id));
            let text = message::subscribed(to, cursor, resumed);
            self.push(conn, speech.say("subscribed", Some(cursor), &text));
        }
    }

    /// A subscription that cannot be continued goes on from here: its client is told; on a plain
    /// endpoint it is closed, so that its page can load anew.
    pub(super) fn reset(&mut self, key: ConnKey, sub: u32, source: Source, reason: ResetReason) {
        let Some(here) = self.feeds.get(&source).map(View::cursor) else { return };
        // What waits is before the reset.
        self.hand_on(self.conns[key.index as usize].subs[sub as usize].route);
        let conn = &self.conns[key.index as usize];
        let it = &conn.subs[sub as usize];
        if !self.routes[it.route as usize].key.form.has_cursors() {
            self.close(key, protocol::Close::TryAgainLater, "read too slowly: changes were missed");
            return;
        }
        // Until the reset has arrived the client's own cursor is the one to keep.
        let own = match &it.state {
            SubState::Behind(behind) => Cursor::new(behind.feed.clone(), behind.after),
            SubState::Live | SubState::Held => here.clone(),
        };
        let reset = conn.speech.say("reset", Some(&here), &message::reset(conn.speech.name(&it.id), reason, &here));
        let (of_channel, it) = (conn.vsn().is_some(), SubKey { conn: key, index: sub, generation: it.generation });
        self.note_skipped(it, reason, Some(own.clone()), &here);
        if of_channel {
            return self.reset_channel(key, sub, reason, &here);
        }
        self.answer(key.index, sub, &own, false);
        self.push(key.index, reset);
        self.metrics.reset(reason);
        self.attach(key.index, sub);
    }
}

/// The topics of a route, shared with who reads its history.
pub(super) fn topics_of(route: &Route) -> Rc<[Topic]> {
    Rc::clone(&route.key.topics)
}
