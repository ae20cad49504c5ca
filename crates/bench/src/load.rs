//! The load client: any number of sockets, one thread, one buffer. It must never be what limits a
//! run, so nothing is allocated or copied per frame, and its own share of its core is reported.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    os::fd::OwnedFd,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
};

use anyhow::Context;
use hdrhistogram::Histogram;
use rustix::{
    buffer::spare_capacity,
    event::{EventfdFlags, Timespec, epoll, eventfd},
    time::{ClockId, clock_gettime},
};

use crate::{
    connect::Client,
    order::{Faults, Order},
    payload::{Reader, now_us},
    pin::Cores,
    progress::{Counts, Progress},
    wire::{self, Kind},
};

/// What is read at once; also the longest frame that is understood.
const BUFFER_BYTES: usize = 256 * 1024;
const EVENTS: usize = 256;
/// How soon it notices that it is to stop.
const LOOK_AROUND: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// Of the event that says to look up; no client has this number.
const WAKE: u64 = u64::MAX;
/// Latencies above count as this: a minute.
const MOST_US: u64 = 60_000_000;

/// A running load client.
pub struct Load {
    pub progress: Arc<Progress>,
    /// Those that are read.
    pub clients: u64,
    joining: Sender<(Client, Order)>,
    wake: Arc<OwnedFd>,
    thread: JoinHandle<anyhow::Result<Crowd>>,
}

/// What the clients have seen.
pub struct Tally {
    /// Microseconds from before the INSERT to the read, of what came while recording.
    pub from_insert: Histogram<u64>,
    /// Microseconds from when the writer heard of the commit; what was read before that is 0.
    pub from_commit: Histogram<u64>,
    pub faults: Faults,
    /// CPU seconds of the load client's thread while recording.
    pub cpu_s: f64,
}

struct Crowd {
    progress: Arc<Progress>,
    clients: Vec<Member>,
    joining: Receiver<(Client, Order)>,
    wake: Arc<OwnedFd>,
    epoll: OwnedFd,
    /// The first so many clients are not read until they are to.
    unread: usize,
    reader: Reader,
    tally: Tally,
    recording_since: Option<f64>,
}

struct Member {
    /// Nothing once the connection has ended.
    stream: Option<TcpStream>,
    order: Order,
    /// The beginning of a frame whose end has not come.
    rest: Vec<u8>,
}

impl Load {
    /// Starts reading. The first change that each client is to see is the one after `last`.
    pub fn start(clients: Vec<Client>, last: u64, cores: &Cores) -> anyhow::Result<Self> {
        Self::start_without(0, clients, last, cores)
    }

    /// As [`Load::start`], but the first `unread` clients are not read until [`Load::read_all`].
    pub fn start_without(unread: usize, clients: Vec<Client>, last: u64, cores: &Cores) -> anyhow::Result<Self> {
        Self::start_with(Reader::new(), unread, clients, last, cores)
    }

    /// As [`Load::start_without`], with frames that are read in a way of their own.
    pub fn start_with(
        reader: Reader,
        unread: usize,
        clients: Vec<Client>,
        last: u64,
        cores: &Cores,
    ) -> anyhow::Result<Self> {
        let progress = Arc::new(Progress::default());
        let count = (clients.len() - unread) as u64;
        let (joining, joined) = channel();
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let mut crowd = Crowd {
            progress: Arc::clone(&progress),
            clients: Vec::with_capacity(clients.len()),
            joining: joined,
            wake: Arc::clone(&wake),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            unread,
            reader,
            tally: Tally {
                from_insert: Histogram::new_with_bounds(1, MOST_US, 3)?,
                from_commit: Histogram::new_with_bounds(1, MOST_US, 3)?,
                faults: Faults::default(),
                cpu_s: 0.0,
            },
            recording_since: None,
        };
        let cores = cores.clone();
        let thread = std::thread::Builder::new().name("load".into()).spawn(move || {
            cores.as_load()?;
            clients.into_iter().try_for_each(|client| crowd.join(client, Order::after(last)))?;
            crowd.run()?;
            Ok(crowd)
        })?;
        Ok(Self { progress, clients: count, joining, wake, thread })
    }

    /// How others hand it clients while it runs, with what they have seen; to be followed by
    /// [`Load::notice`] in case nothing else comes.
    pub fn door(&self) -> Sender<(Client, Order)> {
        self.joining.clone()
    }

    /// It looks up at once.
    pub fn notice(&self) -> anyhow::Result<()> {
        rustix::io::write(&self.wake, &1_u64.to_ne_bytes())?;
        Ok(())
    }

    /// Reads all clients from now on.
    pub fn read_all(&self) -> anyhow::Result<()> {
        self.progress.read_all();
        self.notice()
    }

    /// Waits until every client has this many changes.
    pub async fn all_have(&self, changes: u64) {
        self.progress.reach(changes * self.clients).await;
    }

    /// Ends it. Clients that have not seen every change up to `last` have missed some, but for those
    /// that were never read; without it only holes count.
    pub fn end(self, last: Option<u64>) -> anyhow::Result<Tally> {
        self.progress.stop();
        self.notice()?;
        let crowd = self.thread.join().ok().context("the load client panicked")??;
        let mut tally = crowd.tally;
        if let Some(last) = last {
            crowd.clients[crowd.unread..].iter().for_each(|client| client.order.end(last, &mut tally.faults));
            crowd.progress.take_lost().iter().for_each(|order| order.end(last, &mut tally.faults));
        }
        Ok(tally)
    }
}

impl Crowd {
    fn run(&mut self) -> anyhow::Result<()> {
        epoll::add(&self.epoll, &*self.wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut events = Vec::with_capacity(EVENTS);
        while !self.progress.is_stopped() {
            self.note_recording();
            if self.unread > 0 && self.progress.is_reading_all() {
                let unread = std::mem::take(&mut self.unread);
                (0..unread).try_for_each(|index| self.listen(index))?;
            }
            while let Ok((client, order)) = self.joining.try_recv() {
                self.join(client, order)?;
            }
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&LOOK_AROUND)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                if event.data.u64() == WAKE {
                    rustix::io::read(&self.wake, &mut [0_u8; 8])?;
                    continue;
                }
                let count = self.read(event.data.u64() as usize, &mut buffer)?;
                // After each read: the writer waits for it.
                self.progress.count(count);
            }
        }
        self.note_recording();
        Ok(())
    }

    /// Takes a client in, with what came right behind its handshake.
    fn join(&mut self, Client { stream, rest }: Client, order: Order) -> anyhow::Result<()> {
        let index = self.clients.len();
        self.clients.push(Member { stream: Some(stream), order, rest: Vec::new() });
        let counts = self.take(index, &rest)?;
        self.progress.count(counts);
        if index >= self.unread { self.listen(index) } else { Ok(()) }
    }

    fn listen(&self, index: usize) -> anyhow::Result<()> {
        let Some(stream) = &self.clients[index].stream else { return Ok(()) };
        Ok(epoll::add(&self.epoll, stream, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN)?)
    }

    /// One read of one socket; the rest of what it has comes with its next turn.
    fn read(&mut self, index: usize, buffer: &mut [u8]) -> anyhow::Result<Counts> {
        let client = &mut self.clients[index];
        let Some(stream) = &mut client.stream else { return Ok(Counts::default()) };
        let before = client.rest.len();
        buffer[..before].copy_from_slice(&client.rest);
        let read = match stream.read(&mut buffer[before..]) {
            Ok(read @ 1..) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Counts::default()),
            Ok(0) | Err(_) => {
                client.stream = None;
                self.tally.faults.cut_off += 1;
                let order = std::mem::replace(&mut client.order, Order::after(u64::MAX));
                self.progress.lose(order);
                return Ok(Counts::default());
            }
        };
        let counts = self.take(index, &buffer[..before + read])?;
        Ok(Counts { reads: 1, ..counts })
    }

    /// Takes the frames off what a client has read, and keeps the beginning of one.
    fn take(&mut self, index: usize, mut left: &[u8]) -> anyhow::Result<Counts> {
        let client = &mut self.clients[index];
        let now = now_us();
        let mut counts = Counts::default();
        while let Some(frame) = wire::take(&mut left) {
            match frame.kind {
                Kind::Data => {
                    let mut left = Some(frame.payload);
                    while let Some(payload) = self.reader.take(&mut left) {
                        let Some(stamp) = self.reader.read(payload) else { continue };
                        client.order.see(stamp.id, &mut self.tally.faults);
                        counts.changes += 1;
                        counts.bytes += payload.len() as u64;
                        if self.recording_since.is_some() {
                            let committed_us = self.progress.committed_at(stamp).unwrap_or(now);
                            self.tally.from_insert.saturating_record(now.saturating_sub(stamp.sent_us));
                            self.tally.from_commit.saturating_record(now.saturating_sub(committed_us));
                        }
                    }
                }
                // A socket that is too full for a pong is not idle either.
                Kind::Ping => {
                    if let Some(stream) = &mut client.stream {
                        drop(stream.write(&wire::pong(frame.payload)));
                    }
                }
                Kind::Pong | Kind::Close => {}
            }
        }
        anyhow::ensure!(left.len() < BUFFER_BYTES, "a frame of more than {BUFFER_BYTES} bytes");
        client.rest.clear();
        client.rest.extend_from_slice(left);
        Ok(counts)
    }

    fn note_recording(&mut self) {
        let wanted = self.progress.is_recording() && !self.progress.is_stopped();
        match self.recording_since {
            None if wanted => self.recording_since = Some(thread_cpu_s()),
            Some(since) if !wanted => {
                self.tally.cpu_s += thread_cpu_s() - since;
                self.recording_since = None;
            }
            _ => {}
        }
    }
}

fn thread_cpu_s() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::payload::{Stamp, made};

    fn frame(id: u64) -> Vec<u8> {
        let mut frame = Vec::new();
        wire::write_text(&mut frame, &made(Stamp { id, sent_us: now_us() }, 200));
        frame
    }

    /// A client and the server's end of its connection.
    fn pair() -> (Client, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        stream.set_nonblocking(true).unwrap();
        (Client { stream, rest: Vec::new() }, listener.accept().unwrap().0)
    }

    #[tokio::test]
    async fn who_is_not_read_is_read_later_and_who_comes_back_goes_on_where_it_was() {
        let ((slow, mut slows), (other, mut others)) = (pair(), pair());
        let load = Load::start_without(1, vec![slow, other], 0, &Cores::split(false).unwrap()).unwrap();
        slows.write_all(&frame(1)).unwrap();
        others.write_all(&[frame(1), frame(2)].concat()).unwrap();
        load.all_have(2).await;
        assert_eq!((load.clients, load.progress.counts().changes), (1, 2));
        load.read_all().unwrap();
        load.progress.reach(3).await;
        // It loses its connection, and comes back with what it missed right behind its handshake.
        drop(others);
        while load.progress.count_lost() == 0 {
            tokio::task::yield_now().await;
        }
        let order = load.progress.take_lost().remove(0);
        assert_eq!(order.last(), 2);
        let (mut back, _server) = pair();
        back.rest = frame(4);
        load.door().send((back, order)).unwrap();
        load.notice().unwrap();
        load.progress.reach(4).await;
        let faults = load.end(Some(4)).unwrap().faults;
        // One lacks 2 to 4, the other 3.
        assert_eq!(faults, Faults { missing: 3 + 1, cut_off: 1, ..Faults::default() });
    }

    #[tokio::test]
    async fn frames_cut_anywhere_are_counted_and_what_is_missing_or_repeated_shows() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        stream.set_nonblocking(true).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        // What came with the handshake counts as well.
        let bytes: Vec<u8> = [8, 9, 11, 11, 12].into_iter().flat_map(frame).collect();
        let client = Client { stream, rest: bytes[..300].to_vec() };
        let load = Load::start(vec![client], 7, &Cores::split(false).unwrap()).unwrap();
        load.progress.record(true);
        for piece in bytes[300..].chunks(97) {
            server.write_all(piece).unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        }
        load.all_have(5).await;
        server.write_all(&[0x89, 1, b'p']).unwrap();
        let mut pong = [0; 7];
        server.read_exact(&mut pong).unwrap();
        assert_eq!(pong, [0x8A, 0x81, 0, 0, 0, 0, b'p']);
        let tally = load.end(Some(14)).unwrap();
        assert_eq!(tally.faults, Faults { missing: 3, repeated: 1, ..Faults::default() });
        // Nobody has committed anything yet.
        assert_eq!(tally.from_commit.max(), 0);
        assert!((3..=5).contains(&tally.from_insert.len()), "{}", tally.from_insert.len());
    }
}
