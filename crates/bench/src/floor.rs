//! The floor: what the kernel takes from one thread that does nothing but `write`. One prebuilt
//! frame to each socket in turn; nothing below it can be had without joining changes.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use crate::{
    args::Floor,
    payload::{self, Stamp, now_us},
    pin::Cores,
    process::Process,
    wire,
};

const ANSWER: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
const PONG: &[u8] = &[0x8a, 0];

/// A floor that is later than this was paused, and does not make up for it.
const PAUSED: Duration = Duration::from_millis(500);

/// Passes that warm the connections, at [`WARM_RATE`] a second whatever the rate.
pub const WARM: u64 = 50;
const WARM_RATE: u32 = 50;

/// A floor that runs as a process of its own.
pub fn start(cores: &Cores, floor: &Floor) -> anyhow::Result<Process> {
    let flags = [
        ("--clients", floor.clients.to_string()),
        ("--bytes", floor.bytes.to_string()),
        ("--joined", floor.joined.to_string()),
        ("--rate", floor.rate.to_string()),
        ("--at-most", floor.at_most.to_string()),
        ("--port", "{port}".to_owned()),
    ];
    let flags = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
    cores.as_single()?;
    let process = Process::start("bench", &std::iter::once("floor".to_owned()).chain(flags).collect::<Vec<_>>())?;
    cores.release()?;
    Ok(process)
}

/// Waits for its clients, then writes until they are gone or its time is up.
pub fn serve(floor: &Floor) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, floor.port))?;
    let mut sockets = (0..floor.clients).map(|_| accept(&listener)).collect::<anyhow::Result<Vec<_>>>()?;
    let end = Instant::now() + Duration::from_secs(floor.at_most);
    let mut frames = Vec::new();
    let mut next = Instant::now() + Duration::from_millis(200);
    for pass in 0.. {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        let rate = if pass < WARM { WARM_RATE } else { floor.rate };
        if rate > 0 {
            next += Duration::from_secs(1) / rate;
        }
        let now = Instant::now();
        if now > end {
            break;
        }
        if now.saturating_duration_since(next) > PAUSED {
            next = now;
        }
        frames.clear();
        let sent_us = now_us();
        for nth in 1..=u64::from(floor.joined) {
            let id = pass * u64::from(floor.joined) + nth;
            wire::write_text(&mut frames, &payload::made(Stamp { id, sent_us }, floor.bytes));
        }
        for socket in &mut sockets {
            if socket.write_all(&frames).is_err() {
                // The clients are gone: the run is over.
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A client that has shaken hands, and waits.
pub fn accept(listener: &TcpListener) -> anyhow::Result<TcpStream> {
    let (mut socket, _) = listener.accept()?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    socket.set_write_timeout(Some(Duration::from_secs(10)))?;
    read_until(&mut socket, b"\r\n\r\n")?;
    socket.write_all(ANSWER)?;
    read_until(&mut socket, &wire::PING)?;
    socket.write_all(PONG)?;
    Ok(socket)
}

fn read_until(socket: &mut TcpStream, end: &[u8]) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end) {
        let mut buffer = [0; 1024];
        let count = socket.read(&mut buffer)?;
        anyhow::ensure!(count > 0, "closed during the handshake");
        bytes.extend_from_slice(&buffer[..count]);
    }
    Ok(())
}
