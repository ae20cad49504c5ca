//! From the outboxes to the sockets: each connection everything it has, in one write.

use std::{future::poll_fn, pin::Pin, rc::Rc, task::Context};

use tokio::sync::Notify;

use super::{Hub, HubHandle, conn::ConnKey};
use crate::outbox::{Flushed, Outbox};

impl HubHandle {
    /// Waits while a client does not read what waits for it. Who is asked without end and cannot
    /// answer stops listening.
    pub(crate) async fn until_it_reads(&self, key: ConnKey) {
        while let Some(room) = self.with(|hub| hub.wait_while_full(key)) {
            room.notified().await;
        }
    }

    /// Runs a session, and writes for its connection whenever the socket was full and takes more. So
    /// who waits for a slow client is the task that it has anyway: another one for each that is stuck
    /// took 0.5 KiB.
    pub(crate) fn writing_for<T>(
        &self,
        key: ConnKey,
        mut session: Pin<&mut impl Future<Output = T>>,
    ) -> impl Future<Output = T> {
        poll_fn(move |cx| {
            self.with(|hub| hub.go_on_writing(key, cx));
            session.as_mut().poll(cx)
        })
    }
}

impl Hub {
    /// Whether more waits for a client alone than it should be let ask for.
    pub fn is_not_read(&self, key: ConnKey) -> bool {
        self.conn(key).is_some_and(|conn| conn.outbox.bytes() > self.settings.queue_bytes)
    }

    pub(super) fn wait_while_full(&mut self, key: ConnKey) -> Option<Rc<Notify>> {
        if !self.is_not_read(key) {
            return None;
        }
        self.conn_mut(key).map(|conn| Rc::clone(conn.room.get_or_insert_default()))
    }

    pub(super) fn mark_dirty(&mut self, index: u32) {
        let conn = &mut self.conns[index as usize];
        if !conn.dirty && !conn.full {
            conn.dirty = true;
            self.sweep.push_back(ConnKey { index, generation: conn.generation });
        }
    }

    /// Whether something waits for a socket that may take it.
    pub fn has_to_write(&self) -> bool {
        !self.sweep.is_empty() || !self.streams.is_idle()
    }

    /// Whether more waits for the next sockets of the sweep than they should be made to wait for.
    pub fn is_pressed(&self) -> bool {
        self.streams.is_pressed(self.settings.queue_bytes / 2)
    }

    /// Writes to the next few connections that have something waiting, each everything it has.
    /// Whether more wait.
    pub fn flush_some(&mut self, count: usize) -> bool {
        // Answers do not wait for the changes of others, nor these for a herd of answers.
        let alone = self.sweep.len().min(count / 2);
        let mut total = self.sweep_streams(count - alone);
        for _ in 0..alone {
            let Some(key) = self.sweep.pop_front() else { break };
            let Some(conn) = self.conn_mut(key) else { continue };
            conn.dirty = false;
            let Some((flushed, written)) = self.flush(key) else { continue };
            total += written;
            if flushed == Flushed::Full
                && let Some(conn) = self.conn_mut(key)
            {
                conn.set_full();
            }
        }
        // Once for all of them: the counter is shared between the shards.
        self.metrics.written(total);
        self.has_to_write()
    }

    /// Goes on writing to a socket that was full; if it still is, the task is woken when it takes more.
    fn go_on_writing(&mut self, key: ConnKey, cx: &mut Context<'_>) {
        if let Some(conn) = self.conn_mut(key)
            && conn.task.is_none()
        {
            conn.task = Some(cx.waker().clone());
        }
        // An error shows again in the write.
        while self.conn(key).is_some_and(|conn| conn.full && conn.socket.poll_write_ready(cx).is_ready()) {
            let Some((_, written)) = self.flush(key) else { return };
            self.metrics.written(written);
        }
    }

    fn flush(&mut self, key: ConnKey) -> Option<(Flushed, usize)> {
        let (low, now) = (self.settings.queue_bytes / 2, self.now());
        let conn = self.conns.get_mut(key.index as usize).filter(|conn| conn.generation == key.generation)?;
        let place = conn.place;
        let (flushed, written) = match place.map(|place| (place, self.streams.get_mut(place.stream))) {
            None => conn.outbox.flush(&conn.socket, None, &mut 0),
            Some((place, stream)) => {
                let mut position = stream.slot(place).position;
                let flushed = conn.outbox.flush(&conn.socket, Some(&stream.ring), &mut position);
                stream.slot_mut(place).position = position;
                flushed
            }
        };
        if conn.full && written > 0 {
            // It reads, however slowly; its pong may have to wait behind all that, and so may its close frame.
            conn.heard = now;
            conn.closing = conn.closing.map(|_| now);
        }
        conn.took(flushed, written, now);
        conn.full = flushed == Flushed::Full;
        if conn.outbox.bytes() <= low
            && let Some(room) = conn.room.take()
        {
            room.notify_waiters();
        }
        if flushed == Flushed::Dead || (flushed == Flushed::All && conn.said_goodbye) {
            conn.cut();
        } else if flushed == Flushed::All && conn.hangs_up {
            conn.finish();
        }
        match (flushed, place) {
            (Flushed::Dead, _) => {
                self.note_dead(key);
                let conn = &mut self.conns[key.index as usize];
                conn.outbox = Outbox::default();
                conn.closing.get_or_insert(now);
                self.leave_stream(key.index);
            }
            (Flushed::All, Some(place)) => self.streams.get_mut(place.stream).has_caught_up(place),
            (Flushed::All, None) | (Flushed::Full, _) => {}
        }
        self.make_use_of_room(key);
        Some((flushed, written))
    }
}
