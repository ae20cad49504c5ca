use crate::{
    bus_writer::BusWriter,
    payload::{self, Stamp, now_us},
    peers::pipe::Pipe,
};

/// Of a frame's payload, whatever part of it is the peer's envelope.
const FRAME_BYTES: usize = 250;

/// Who publishes, one change at a time.
pub enum Writer {
    /// As a listener does.
    Bus(BusWriter),
    Pipe {
        pipe: Pipe,
        sent: u64,
        bytes: usize,
    },
}

impl Writer {
    /// Nothing is sent yet.
    pub fn pipe(pipe: Pipe) -> Self {
        Self::Pipe { pipe, sent: 0, bytes: FRAME_BYTES }
    }

    /// Changes so far; also the last one's id.
    pub fn sent(&self) -> u64 {
        match self {
            Self::Bus(writer) => writer.last(),
            Self::Pipe { sent, .. } => *sent,
        }
    }

    /// Publishes one change.
    pub async fn publish(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Bus(writer) => writer.batch(1).await,
            Self::Pipe { pipe, sent, bytes } => {
                let made = payload::made(Stamp { id: *sent + 1, sent_us: now_us() }, *bytes);
                pipe.publish(std::str::from_utf8(&made)?).await?;
                *sent += 1;
                Ok(())
            }
        }
    }

    /// Makes payloads shorter by what the peer puts around them.
    pub fn fit(&mut self, frame_bytes: usize) {
        if let Self::Pipe { bytes, .. } = self {
            *bytes -= frame_bytes.saturating_sub(FRAME_BYTES).min(*bytes);
        }
    }
}
