//! A plain subscription of several feeds, and what it has missed of each while it was let in.

use protocol::{Close, Topic};

use super::{
    Hub, HubHandle, Task,
    catch_up::{LOOK_BYTES, STEP_BYTES, Unreadable},
    conn::{Behind, Sub, SubKey, SubState},
};

impl HubHandle {
    /// Goes on, in turn with others and as fast as the client reads.
    pub(super) async fn go_on_letting_in(self, key: SubKey, missed: Vec<Behind>) {
        tokio::task::yield_now().await;
        self.until_it_reads(key.conn).await;
        self.with(|hub| hub.catch_up_on_several(key, missed));
    }
}

impl Hub {
    /// Sends it what it has missed of each, until it has all: about a step of it, and a task goes on. There is
    /// no one place that it could go on from, but what came a moment ago is in memory; if it no longer is,
    /// the page is to come again.
    pub(super) fn catch_up_on_several(&mut self, key: SubKey, mut missed: Vec<Behind>) {
        let (mut bytes, mut sends) = (0, true);
        while std::mem::take(&mut sends) {
            for place in &mut missed {
                let Some(sub) = self.sub_mut(key) else { return };
                sub.state = SubState::Behind(Box::new(place.clone()));
                let sent = self.send_from_memory_on(key, place);
                let Some(sub) = self.sub_mut(key) else { return };
                if let SubState::Behind(behind) = std::mem::replace(&mut sub.state, SubState::Held) {
                    *place = *behind;
                }
                match sent {
                    Ok(Some((_, size))) => (bytes, sends) = (bytes + size.max(LOOK_BYTES), true),
                    Ok(None) => {}
                    Err(_) => {
                        let why = "changes were missed while it was let in";
                        return self.close(key.conn, Close::TryAgainLater, why);
                    }
                }
            }
            if sends && bytes >= STEP_BYTES {
                return self.tasks.push(Task::CatchUpOnSeveral(key, missed));
            }
        }
        self.attach(key.conn.index, key.index);
    }

    fn send_from_memory_on(&mut self, key: SubKey, place: &Behind) -> Result<Option<(usize, usize)>, Unreadable> {
        let is_here = self.feeds.get(&place.source).is_some_and(|view| view.feed == place.feed);
        if !is_here {
            return Err(Unreadable::NotHere);
        }
        let route = self.conns[key.conn.index as usize].subs[key.index as usize].route;
        let topics = &self.routes[route as usize].key.topics;
        let own = topics.iter().filter(|topic| self.carriers.get(*topic) == Some(&place.source));
        let own: Vec<Topic> = own.cloned().collect();
        self.send_from_memory(key, &own, place.after)
    }

    /// One that is there, and whose connection is not being closed.
    fn sub_mut(&mut self, key: SubKey) -> Option<&mut Sub> {
        let conn = self.conn_mut(key.conn).filter(|conn| conn.closing.is_none())?;
        conn.subs.get_mut(key.index as usize).filter(|sub| sub.generation == key.generation)
    }
}
