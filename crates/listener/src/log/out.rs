//! From who reads the log to who publishes: batches in order, bounded by bytes.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use prometheus_client::metrics::gauge::Gauge;
use protocol::{Batch, Catalogue, Micros, Offset};
use tokio::sync::{Notify, mpsc, watch};

/// While this much waits, nothing more is read; one part of a tick comes on top of it.
const ROOM_BYTES: usize = 16 * 1024 * 1024;

/// Makes the two ends; `gauge` shows what waits.
pub(crate) fn line(catalogue: Catalogue, gauge: Gauge) -> (Out, Line) {
    gauge.set(0);
    let (sender, receiver) = mpsc::unbounded_channel();
    let (mark_sender, marks) = watch::channel(None);
    let (catalogue_sender, catalogue) = watch::channel(catalogue);
    let shared = Arc::new(Shared { bytes: AtomicUsize::new(0), room: Notify::new(), gauge });
    (
        Out { sender, marks: mark_sender, catalogue: catalogue_sender, shared: Arc::clone(&shared) },
        Line { receiver, marks, catalogue, shared },
    )
}

#[derive(Debug)]
struct Shared {
    bytes: AtomicUsize,
    room: Notify,
    gauge: Gauge,
}

impl Shared {
    fn set(&self, bytes: usize) {
        self.gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

/// The reading end.
#[derive(Debug)]
pub(crate) struct Out {
    sender: mpsc::UnboundedSender<Batch>,
    marks: watch::Sender<Option<Mark>>,
    catalogue: watch::Sender<Catalogue>,
    shared: Arc<Shared>,
}

/// The feed is complete up to `last` as of `at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) last: Offset,
    pub(crate) at: Micros,
    /// Whether there was nothing newer in the log then.
    pub(crate) newest: bool,
}

impl Out {
    pub(crate) fn send(&self, batch: Batch) {
        let bytes = size(&batch);
        // Without a receiver both ends are about to be dropped.
        if self.sender.send(batch).is_ok() {
            self.shared.set(self.shared.bytes.fetch_add(bytes, Ordering::AcqRel) + bytes);
        }
    }

    pub(crate) fn mark(&self, mark: Mark) {
        self.marks.send_replace(Some(mark));
    }

    pub(crate) fn announce(&self, catalogue: Catalogue) {
        self.catalogue.send_if_modified(|known| {
            let changed = *known != catalogue;
            *known = catalogue;
            changed
        });
    }

    pub(crate) fn has_room(&self) -> bool {
        self.shared.bytes.load(Ordering::Acquire) < ROOM_BYTES
    }

    /// Waits until there is room.
    pub(crate) async fn room(&self) {
        while !self.has_room() {
            self.shared.room.notified().await;
        }
    }
}

/// The publishing end.
#[derive(Debug)]
pub(crate) struct Line {
    receiver: mpsc::UnboundedReceiver<Batch>,
    marks: watch::Receiver<Option<Mark>>,
    catalogue: watch::Receiver<Catalogue>,
    shared: Arc<Shared>,
}

/// What came down the line.
#[derive(Debug)]
pub(crate) enum Came {
    Batch(Batch),
    /// See [`Line::mark`].
    Mark,
    /// The feed carries other topics than before.
    Catalogue(Catalogue),
    /// The other end is gone.
    End,
}

impl Line {
    /// The next batch, if there is one already.
    pub(crate) fn try_next(&mut self) -> Option<Batch> {
        let batch = self.receiver.try_recv().ok()?;
        self.taken(&batch);
        Some(batch)
    }

    /// The next thing; changes first.
    pub(crate) async fn next(&mut self) -> Came {
        tokio::select! {
            biased;
            batch = self.receiver.recv() => match batch {
                Some(batch) => {
                    self.taken(&batch);
                    Came::Batch(batch)
                }
                None => Came::End,
            },
            Ok(()) = self.catalogue.changed() => Came::Catalogue(self.catalogue.borrow_and_update().clone()),
            Ok(()) = self.marks.changed() => Came::Mark,
        }
    }

    /// Up to where the feed was complete when last looked at.
    pub(crate) fn mark(&mut self) -> Option<Mark> {
        *self.marks.borrow_and_update()
    }

    /// What the feed carries, if that is new.
    pub(crate) fn new_catalogue(&mut self) -> Option<Catalogue> {
        self.catalogue.has_changed().is_ok_and(|changed| changed).then(|| self.catalogue())
    }

    /// What the feed carries.
    pub(crate) fn catalogue(&mut self) -> Catalogue {
        self.catalogue.borrow_and_update().clone()
    }

    fn taken(&self, batch: &Batch) {
        let bytes = size(batch);
        self.shared.set(self.shared.bytes.fetch_sub(bytes, Ordering::AcqRel) - bytes);
        self.shared.room.notify_one();
    }
}

fn size(batch: &Batch) -> usize {
    batch.slices.iter().map(|(_, slice)| slice.bytes.len()).sum()
}
