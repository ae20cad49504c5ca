//! From the outboxes to the sockets: each connection everything it has, in one write.

use std::{rc::Rc, time::Instant};

use tokio::sync::Notify;

use super::{Hub, HubHandle, Task, conn::ConnKey};
use crate::outbox::{Flushed, Outbox};

impl HubHandle {
    /// Waits while a client does not read what waits for it. Who is asked without end and cannot
    /// answer stops listening.
    pub(crate) async fn until_it_reads(&self, key: ConnKey) {
        while let Some(room) = self.with(|hub| hub.wait_while_full(key)) {
            room.notified().await;
        }
    }

    pub(super) async fn flush_when_writable(self, key: ConnKey) {
        loop {
            let Some(socket) = self.with(|hub| hub.conn(key).map(|conn| Rc::clone(&conn.socket))) else { return };
            // An error shows again in the write.
            drop(socket.writable().await);
            if !self.with(|hub| hub.flush_full(key)) {
                return;
            }
        }
    }
}

impl Hub {
    pub(super) fn wait_while_full(&mut self, key: ConnKey) -> Option<Rc<Notify>> {
        let most = self.settings.queue_bytes;
        let conn = self.conn_mut(key)?;
        (conn.outbox.bytes() > most).then(|| Rc::clone(conn.room.get_or_insert_default()))
    }

    pub(super) fn mark_dirty(&mut self, index: u32) {
        let conn = &mut self.conns[index as usize];
        if !conn.dirty && !conn.full {
            conn.dirty = true;
            self.sweep.push_back(ConnKey { index, generation: conn.generation });
        }
    }

    /// Writes to the next few connections that have something waiting, each everything it has.
    /// Whether more wait.
    pub fn flush_some(&mut self, count: usize) -> bool {
        let mut total = 0;
        for _ in 0..count {
            let Some(key) = self.sweep.pop_front() else { break };
            let Some(conn) = self.conn_mut(key) else { continue };
            conn.dirty = false;
            let Some((flushed, written)) = self.flush(key) else { continue };
            total += written;
            if flushed == Flushed::Full
                && let Some(conn) = self.conn_mut(key)
            {
                conn.full = true;
                self.tasks.push(Task::Flush(key));
            }
        }
        // Once for all of them: the counter is shared between the shards.
        self.metrics.written(total);
        !self.sweep.is_empty()
    }

    /// Goes on writing to a socket that was full. Whether it still is.
    pub(super) fn flush_full(&mut self, key: ConnKey) -> bool {
        let Some((flushed, written)) = self.flush(key) else { return false };
        self.metrics.written(written);
        let full = flushed == Flushed::Full;
        if !full && let Some(conn) = self.conn_mut(key) {
            conn.full = false;
        }
        full
    }

    fn flush(&mut self, key: ConnKey) -> Option<(Flushed, usize)> {
        let low = self.settings.queue_bytes / 2;
        let conn = self.conns.get_mut(key.index as usize).filter(|conn| conn.generation == key.generation)?;
        let (flushed, written) = conn.outbox.flush(&conn.socket);
        if conn.full && written > 0 {
            // It reads, however slowly; its pong may have to wait behind all that.
            conn.heard = Instant::now();
        }
        if flushed == Flushed::Dead {
            conn.outbox = Outbox::default();
        }
        conn.stuck_since = match flushed {
            Flushed::Full if written == 0 => conn.stuck_since.or_else(|| Some(Instant::now())),
            Flushed::Full => Some(Instant::now()),
            Flushed::All | Flushed::Dead => None,
        };
        if conn.outbox.bytes() <= low
            && let Some(room) = conn.room.take()
        {
            room.notify_waiters();
        }
        if flushed == Flushed::Dead || (flushed == Flushed::All && conn.said_goodbye) {
            conn.cut();
        }
        Some((flushed, written))
    }
}
