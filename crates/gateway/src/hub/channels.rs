//! Channels of Supabase's protocol: each is a subscription, or none, and what its client is told in its words.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    rc::Rc,
    time::{Duration, SystemTime},
};

use protocol::{Cursor, ErrorCode, ResetReason, Source, Topic};

use super::{
    Expiry, Hub, Refusal, Speech,
    conn::{Behind, Conn, ConnKey, SubState},
    moment::steps,
    route::{RouteForm, RouteKey},
};
use crate::{
    access::Claims,
    realtime::{Bindings, Channel, Join, OpenBindings, Ref, Vsn, name_of},
    ws,
};

/// What the table of a binding is watched by.
const SOURCE: Source = Source::Log;

/// A channel that is to be joined.
pub struct Joining {
    /// Its name on the wire.
    pub topic: Box<str>,
    /// What its messages are to carry.
    pub join_ref: Ref,
    /// What the answer is to carry.
    pub reference: Ref,
    /// What it asks for.
    pub join: Join,
    /// What it may.
    pub claims: Claims,
}

/// Why a channel may have no broadcasts.
fn no_broadcast(topic: &str) -> String {
    format!("the token's claim 'broadcast' does not cover '{}'", name_of(topic))
}

impl Conn {
    fn channel(&self, topic: &str) -> Option<&Channel> {
        self.channels.iter().find(|channel| *channel.topic == *topic)
    }

    /// The version of Supabase's protocol, if it speaks that.
    pub(super) fn vsn(&self) -> Option<Vsn> {
        match self.speech {
            Speech::Realtime(vsn) => Some(vsn),
            Speech::WebSocket | Speech::Events => None,
        }
    }
}

impl Hub {
    /// For how long the connection may be without a channel, from now on and whenever its last one has ended.
    pub fn unjoined_for(&mut self, key: ConnKey, span: Duration, why: Expiry) {
        if let Some(conn) = self.conn_mut(key) {
            conn.unjoined = Some((steps(span), why));
        }
        self.await_join(key);
    }

    /// A connection that has no channel has so much time to join one.
    fn await_join(&mut self, key: ConnKey) {
        let now = self.now();
        if let Some(conn) = self.conn_mut(key).filter(|conn| conn.channels.is_empty()) {
            conn.expires = conn.unjoined.map(|(steps, why)| (now.plus(steps), why));
        }
    }

    /// Joins a channel, in the place of an earlier join of it. It is answered at once; its changes follow, and before them
    /// that it is subscribed.
    pub fn join_channel(&mut self, key: ConnKey, joining: Joining) -> Result<(), Refusal> {
        let Joining { topic, join_ref, reference, join, claims } = joining;
        self.note_claims(key, &claims);
        self.close_channel(key, &topic);
        let most = self.settings.max_subscriptions;
        let Some((conn, vsn)) = self.conn(key).and_then(|conn| Some((conn, conn.vsn()?))) else { return Ok(()) };
        if conn.channels.len() >= most {
            let message = format!("this connection has {most} channels, and may not have more");
            return Err(Refusal(ErrorCode::TooManySubscriptions, message));
        }
        if join.bindings.is_empty() && !claims.may_broadcast(name_of(&topic)) {
            let message = format!("{}, and the channel has nothing else", no_broadcast(&topic));
            return Err(Refusal(ErrorCode::Unauthorized, message));
        }
        let cursors = join.resume.is_some();
        let bindings = Bindings { vsn, channel: topic.clone(), cursors, all: join.bindings };
        let topics = self.tables_of(&bindings, &claims)?;
        let (own, ack) = (join.own, join.ack);
        let response = if topics.is_empty() { "{}" } else { &format!(r#"{{"postgres_changes":{}}}"#, join.echo) };
        let reply = format!(r#"{{"status":"ok","response":{response}}}"#);
        self.send_text(key, &vsn.write(&join_ref, &reference, &topic, "phx_reply", &reply));
        let bindings = (!topics.is_empty()).then(|| Rc::new(bindings));
        let channel =
            Channel { topic: topic.clone(), join_ref, bindings: bindings.clone(), told: false, claims, own, ack };
        if channel.may_broadcast() {
            self.listening.add(&topic, key);
        }
        let conn = &mut self.conns[key.index as usize];
        conn.channels.push(channel);
        conn.expires = None;
        let Some(bindings) = bindings else { return Ok(()) };
        let form = RouteForm::Realtime(bindings);
        let route = RouteKey { topics: topics.into(), source: Some(SOURCE), form, conflate_ms: None, twin: 0 };
        let route = self.hold_route(route);
        let sub = self.insert_sub(key, topic, route, true);
        let resume = join.resume.flatten();
        let began = resume.clone().or_else(|| self.feeds.get(&SOURCE).map(super::View::cursor));
        self.note_began(sub, began.into_iter().collect(), resume.is_some());
        match resume {
            None => self.attach(key.index, sub.index),
            Some(Cursor { feed, offset }) => {
                let behind = Behind { source: SOURCE, feed, after: offset, open: None, waits_for_room: false };
                self.conns[key.index as usize].subs[sub.index as usize].state = SubState::Behind(Box::new(behind));
                self.catch_up_at_once(sub);
            }
        }
        Ok(())
    }

    /// The tables that the bindings come to now. One that is named must be watched, and the claims cover it; of a
    /// whole schema it is those that the claims cover, and there must be one.
    fn tables_of(&self, bindings: &Bindings, claims: &Claims) -> Result<Vec<Topic>, Refusal> {
        let may_see = |name: &str| claims.may_subscribe(name);
        let mut open = OpenBindings::of(&bindings.all);
        let mut topics: Vec<Topic> = match open.is_empty() {
            true => Vec::new(),
            false => self.tables().filter(|topic| may_see(topic.as_str()) && open.take(topic)).cloned().collect(),
        };
        for binding in &bindings.all {
            if open.lacks(binding) {
                let (code, message) = match self.feeds.contains_key(&SOURCE) {
                    true => (
                        ErrorCode::UnknownTopic,
                        format!("no table of {} is watched that this client may see", binding.shown()),
                    ),
                    false => (ErrorCode::NotReady, "no listener has announced its tables yet".into()),
                };
                return Err(Refusal(code, message));
            }
            let Some(topic) = binding.topic() else { continue };
            let topic = topic.map_err(|why| Refusal(ErrorCode::BadTopic, why))?;
            if !may_see(topic.as_str()) {
                let message = format!("the token's claim 'topics' does not cover '{topic}'");
                return Err(Refusal(ErrorCode::Unauthorized, message));
            }
            if self.carriers.get(&topic) != Some(&SOURCE) {
                // Says what there is, where there is none.
                self.one_source(std::slice::from_ref(&topic), None, may_see)?;
                let message = format!("'{topic}' is a NOTIFY channel; postgres_changes are of watched tables");
                return Err(Refusal(ErrorCode::UnknownTopic, message));
            }
            topics.push(topic);
        }
        topics.sort();
        topics.dedup();
        Ok(topics)
    }

    fn tables(&self) -> impl Iterator<Item = &Topic> {
        let infos = self.feeds.get(&SOURCE).map_or(&[][..], |view| &view.catalogue.topics);
        infos.iter().map(|info| &info.topic).filter(|topic| self.carriers.get(*topic) == Some(&SOURCE))
    }

    /// How many channels a connection has, if this is one of them.
    pub fn channels_beside(&self, key: ConnKey, topic: &str) -> Option<NonZeroU32> {
        let conn = self.conn(key)?;
        conn.channel(topic)?;
        u32::try_from(conn.channels.len()).ok().and_then(NonZeroU32::new)
    }

    /// Whether a connection has a channel.
    pub fn has_channels(&self, key: ConnKey) -> bool {
        self.conn(key).is_some_and(|conn| !conn.channels.is_empty())
    }

    /// A channel that is joined.
    pub fn channel(&self, key: ConnKey, topic: &str) -> Option<&Channel> {
        self.conn(key)?.channel(topic)
    }

    /// The client leaves a channel, whether there is one or not. To leave an earlier join than the one that there is comes late
    /// and ends nothing, for that join has ended already.
    pub fn leave_channel(&mut self, key: ConnKey, topic: &str, join_ref: &Ref, reference: &Ref) {
        let Some(vsn) = self.conn(key).and_then(Conn::vsn) else { return };
        let ok = r#"{"status":"ok","response":{}}"#;
        self.send_text(key, &vsn.write(join_ref, reference, topic, "phx_reply", ok));
        if !self.channel(key, topic).is_some_and(|channel| join_ref.is_before(&channel.join_ref)) {
            self.close_channel(key, topic);
        }
    }

    /// Ends a channel, and says so: its client does not come back to it by itself.
    pub fn close_channel(&mut self, key: ConnKey, topic: &str) {
        if let Some((channel, vsn)) = self.take_channel(key, topic) {
            self.send_text(key, &channel.closed(vsn));
        }
    }

    /// Ends a channel whose client may not have it any more.
    pub fn revoke_channel(&mut self, key: ConnKey, topic: &str, why: &str) {
        if let Some((channel, vsn)) = self.take_channel(key, topic) {
            self.metrics.error(ErrorCode::Unauthorized);
            self.send_text(key, &channel.system(vsn, false, why, &[]));
            self.send_text(key, &channel.closed(vsn));
        }
    }

    /// Ends a channel that its client is to join again: that may bring something else.
    pub(super) fn fail_channel(&mut self, key: ConnKey, topic: &str, reason: &str) {
        if let Some((channel, vsn)) = self.take_channel(key, topic) {
            self.send_text(key, &channel.failed(vsn, reason));
        }
    }

    fn take_channel(&mut self, key: ConnKey, topic: &str) -> Option<(Channel, Vsn)> {
        let conn = self.conn_mut(key)?;
        let vsn = conn.vsn()?;
        let place = conn.channels.iter().position(|channel| *channel.topic == *topic)?;
        let channel = conn.channels.swap_remove(place);
        self.listening.remove(topic, key);
        let conn = self.conn(key)?;
        let sub = conn.subs.iter().find(|(_, sub)| *sub.id == *topic).map(|(sub, _)| sub as u32);
        if let Some(sub) = sub {
            self.remove_sub(key.index, sub);
        }
        self.await_join(key);
        Some((channel, vsn))
    }

    /// What the client of a channel may from now on. A channel that may not go on ends; one that would have other tables
    /// is to be joined again.
    pub fn renew_channel(&mut self, key: ConnKey, topic: &str, claims: Claims) {
        self.note_claims(key, &claims);
        let Some(channel) = self.channel(key, topic) else { return };
        let may_broadcast = claims.may_broadcast(name_of(topic));
        let lost = match &channel.bindings {
            None if may_broadcast => None,
            None => Some(no_broadcast(topic)),
            Some(bindings) => match self.tables_of(bindings, &claims) {
                Ok(tables) if self.has_tables(key, topic, &tables) => None,
                Ok(_) | Err(Refusal(ErrorCode::NotReady, _)) => {
                    return self.fail_channel(key, topic, "TablesChanged: the token covers other tables; join again");
                }
                Err(Refusal(_, why)) => Some(why),
            },
        };
        if let Some(lost) = lost {
            return self.revoke_channel(key, topic, &format!("Unauthorized: {lost}"));
        }
        self.note_claims_of_channel(key, topic, &claims);
        let conn = &mut self.conns[key.index as usize];
        let of_it = conn.channels.iter_mut().find(|channel| *channel.topic == *topic);
        of_it.into_iter().for_each(|channel| channel.claims = claims.clone());
        match may_broadcast {
            true => self.listening.add(topic, key),
            false => self.listening.remove(topic, key),
        }
    }

    /// Whether these are the tables that a channel gets the changes of.
    fn has_tables(&self, key: ConnKey, topic: &str, tables: &[Topic]) -> bool {
        self.route_of(key, topic).is_some_and(|route| *self.routes[route as usize].key.topics == *tables)
    }

    /// The route of a channel, if it has bindings.
    fn route_of(&self, key: ConnKey, topic: &str) -> Option<u32> {
        self.conn(key)?.subs.iter().find(|(_, sub)| *sub.id == *topic).map(|(_, sub)| sub.route)
    }

    /// Ends channels whose token has expired.
    pub(super) fn expire_channels(&mut self, key: ConnKey, now: SystemTime) {
        let Some(conn) = self.conn(key) else { return };
        let is_over = |channel: &&Channel| channel.claims.expires_at().is_some_and(|at| at <= now);
        let over: Vec<Box<str>> = conn.channels.iter().filter(is_over).map(|channel| channel.topic.clone()).collect();
        for topic in over {
            self.revoke_channel(
                key,
                &topic,
                "Unauthorized: the token has expired; setAuth() with a fresh one, and join again",
            );
        }
    }

    /// A subscription is live: from now on every write arrives. Its client is told so, once.
    pub(super) fn tell_subscribed(&mut self, conn: u32, sub: u32) {
        let it = &mut self.conns[conn as usize];
        let Some(vsn) = it.vsn() else { return };
        let id = &it.subs[sub as usize].id;
        let Some(channel) = it.channels.iter_mut().find(|channel| channel.topic == *id) else { return };
        if std::mem::replace(&mut channel.told, true) {
            return;
        }
        let cursors = channel.bindings.as_ref().is_some_and(|bindings| bindings.cursors);
        let here = self.feeds.get(&SOURCE).map(|view| view.cursor().to_string()).filter(|_| cursors);
        let more: Vec<(&str, &str)> = here.iter().map(|here| ("cursor", here.as_str())).collect();
        let text = channel.system(vsn, true, "Subscribed to PostgreSQL", &more);
        self.push(conn, ws::text(&text));
    }

    /// A channel may have missed something. Who is told of cursors is told of this; who is not is to join again,
    /// and load anew.
    pub(super) fn reset_channel(&mut self, key: ConnKey, sub: u32, reason: ResetReason, here: &Cursor) {
        self.metrics.reset(reason);
        let Some((conn, vsn)) = self.conn(key).and_then(|conn| Some((conn, conn.vsn()?))) else { return };
        let topic = conn.subs[sub as usize].id.clone();
        let message = format!("Reset: changes may have been missed ({reason})");
        let Some(channel) = conn.channel(&topic) else { return };
        if !channel.bindings.as_ref().is_some_and(|bindings| bindings.cursors) {
            return self.fail_channel(key, &topic, &message);
        }
        let more = [("reset", reason.as_str()), ("cursor", &here.to_string())];
        let text = channel.system(vsn, false, &message, &more);
        self.push(key.index, ws::text(&text));
        self.attach(key.index, sub);
    }

    /// Tells how far its channels are, where that is wanted and they are up to date.
    pub(super) fn send_channel_cursors(&mut self, key: ConnKey) {
        let Some((conn, view)) = self.conn(key).zip(self.feeds.get(&SOURCE)) else { return };
        let of_it = |channel: &Channel| {
            let bindings = channel.bindings.as_ref().filter(|bindings| bindings.cursors)?;
            let sub = conn.subs.iter().find(|(_, sub)| sub.id == channel.topic)?.1;
            let is_up_to_date = sub.is_live() && !self.routes[sub.route as usize].has_one_of(&view.untold);
            is_up_to_date.then(|| bindings.cursor(&view.feed, view.last))
        };
        let texts: Vec<String> = conn.channels.iter().filter_map(of_it).collect();
        texts.iter().for_each(|text| self.send_text(key, text));
    }

    /// Which tables are of a whole schema has changed: who has bound to it is to join again.
    pub(super) fn tables_changed(&mut self) {
        // Most may the same: looked up once for all who do.
        let mut judged = HashMap::new();
        let mut changed = |key: ConnKey, channel: &Channel| {
            let is_open = |it: &&Rc<Bindings>| it.all.iter().any(|one| one.is_open());
            let Some(bindings) = channel.bindings.as_ref().filter(is_open) else { return false };
            let Some(route) = self.route_of(key, &channel.topic) else { return false };
            *judged.entry((route, channel.claims.topics())).or_insert_with(|| {
                let tables = self.tables_of(bindings, &channel.claims).unwrap_or_default();
                *self.routes[route as usize].key.topics != *tables
            })
        };
        let mut those: Vec<(ConnKey, Box<str>)> = Vec::new();
        for (index, conn) in &self.conns {
            let key = ConnKey { index: index as u32, generation: conn.generation };
            let of_it = conn.channels.iter().filter(|channel| changed(key, channel));
            those.extend(of_it.map(|channel| (key, channel.topic.clone())));
        }
        for (key, topic) in those {
            self.fail_channel(key, &topic, "TablesChanged: other tables are watched now; join again");
        }
    }
}
