//! A client's socket: what it inherits from the listener, and how it is written to. What a slow
//! client has not been sent yet is to wait in memory that is shared, and not once more in the kernel.

use std::{
    io::{self, IoSlice},
    os::fd::RawFd,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, send, sendmsg},
};
use rustix::net::{SendAncillaryBuffer, SendFlags};
use socket2::{Socket, TcpKeepalive};
use tokio::{io::Interest, net::TcpStream};

/// Past this many unsent bytes a socket takes nothing more: it need only have enough to go on with
/// until it is written to again.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 8 * 1024;

/// How often a client that sends and does not read is looked at, whether it has left.
const HANG_UP_LOOK: Duration = Duration::from_millis(250);

/// Most that is written at once to a socket that was full.
pub const WRITE_BYTES: usize = 16 * 1024;

/// Linux looks at the limit on unsent bytes, and at that of the send buffer, only when it begins a
/// buffer, and fills the one it has begun first: up to half the client's window, so that a stuck
/// reader kept 52 KiB however low they were. A buffer that ends with the write makes it look each
/// time: 20 KiB. What is sent at once, as nearly all is, has been in a buffer of its own anyway.
#[cfg(target_os = "linux")]
const EOR: MsgFlags = MsgFlags::MSG_EOR;
#[cfg(not(target_os = "linux"))]
const EOR: MsgFlags = MsgFlags::empty();
const HOW: SendFlags = SendFlags::from_bits_retain(EOR.bits() as u32);

/// Sets what the sockets that a listener accepts are to have. They inherit it, so that it costs no
/// call for each.
pub fn prepare(listener: &Socket) -> io::Result<()> {
    listener.set_tcp_nodelay(true)?;
    #[cfg(target_os = "linux")]
    listener.set_tcp_notsent_lowat(UNSENT_BYTES)?;
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(4);
    listener.set_tcp_keepalive(&keepalive)
}

/// Writes what the socket takes.
pub fn write(socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    socket.try_io(Interest::WRITABLE, || Ok(rustix::net::send(socket, bytes, HOW)?))
}

/// Writes what the socket takes of one piece or two, past tokio, which would look first whether it
/// knows the socket to be full: memory that is cold for each of a thousand sockets, and with the way to
/// the descriptor 7 % of the time of a fan-out. Who finds it full goes on with [`write`], and so tokio
/// notices then.
pub fn write_at_once(socket: RawFd, [bytes, next]: [&[u8]; 2]) -> io::Result<usize> {
    let flags = MsgFlags::MSG_NOSIGNAL | EOR;
    loop {
        let sent = match next {
            [] => send(socket, bytes, flags),
            _ => sendmsg::<()>(socket, &[IoSlice::new(bytes), IoSlice::new(next)], &[], flags, None),
        };
        match sent {
            // A signal came first.
            Err(Errno::EINTR) => {}
            result => return Ok(result?),
        }
    }
}

/// As [`write`], from several pieces.
pub fn write_vectored(socket: &TcpStream, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    let send = || Ok(rustix::net::sendmsg(socket, pieces, &mut SendAncillaryBuffer::default(), HOW)?);
    socket.try_io(Interest::WRITABLE, send)
}

/// Waits until the client has hung up. What it sent before that stays unread.
pub async fn hung_up(socket: &TcpStream) {
    while let Ok(ready) = socket.ready(Interest::READABLE).await {
        if ready.is_read_closed() {
            return;
        }
        // Something waits to be read, so this would be ready again at once.
        tokio::time::sleep(HANG_UP_LOOK).await;
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::{fs, net::SocketAddr, time::Instant};

    use socket2::{Domain, SockRef, Type};

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        prepare(&listener).unwrap();
        listener.set_nonblocking(true).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(1).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener.into()).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (listener.accept().await.unwrap().0, client)
    }

    /// Bytes of a socket that its peer has not acknowledged.
    fn queued(socket: &TcpStream) -> usize {
        let port = |socket: SocketAddr| format!(":{:04X}", socket.port());
        let (own, peer) = (port(socket.local_addr().unwrap()), port(socket.peer_addr().unwrap()));
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        let of_it = |columns: &Vec<&str>| columns[1].ends_with(&own) && columns[2].ends_with(&peer);
        let line = table.lines().map(|line| line.split_whitespace().collect()).find(of_it).unwrap();
        let (unacknowledged, _) = line[4].split_once(':').unwrap();
        usize::from_str_radix(unacknowledged, 16).unwrap()
    }

    #[tokio::test]
    async fn an_accepted_socket_has_what_the_listener_was_given() {
        let (server, _client) = pair().await;
        let socket = SockRef::from(&server);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), UNSENT_BYTES);
    }

    #[tokio::test]
    async fn what_a_stuck_client_is_not_sent_does_not_wait_in_the_kernel() {
        for piece in [300, 2000, 8600, WRITE_BYTES] {
            let (server, _client) = pair().await;
            let bytes = vec![b'x'; WRITE_BYTES];
            // As the hub does: what comes goes out, and what is left goes along with what comes next.
            let mut waits = 0;
            for _ in 0..400_000 / piece {
                waits += piece;
                while waits > 0
                    && let Ok(count) = write(&server, &bytes[..waits.min(WRITE_BYTES)])
                {
                    waits -= count;
                }
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
            assert!(waits > 50_000, "the client is stuck: {waits} bytes wait");
            // What the client's kernel had no room for is under way until it is found lost.
            let deadline = Instant::now() + Duration::from_secs(20);
            while queued(&server) > 28 * 1024 {
                assert!(Instant::now() < deadline, "{} bytes are in the kernel, in writes of {piece}", queued(&server));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}
