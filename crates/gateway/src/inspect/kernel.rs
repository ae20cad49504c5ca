//! What the kernel holds for a client: bytes that were written to its socket and that it has not
//! acknowledged. Asked for one socket at a time, through a `sock_diag` socket (sock_diag(7)): to read the
//! table in /proc would take as long as there are sockets.

use std::net::{IpAddr, SocketAddr};

/// A socket for questions; `None` where the system has no such thing.
pub struct Kernel(#[cfg(target_os = "linux")] linux::Asked);

impl Kernel {
    /// Opens it.
    #[cfg(target_os = "linux")]
    pub fn open() -> Option<Self> {
        linux::open().ok().map(Self)
    }

    /// Opens it.
    #[cfg(not(target_os = "linux"))]
    pub fn open() -> Option<Self> {
        None
    }

    /// Bytes that wait in the kernel on the way from `local` to `peer`; `None` if that cannot be known.
    #[cfg(target_os = "linux")]
    pub fn unacknowledged(&self, local: SocketAddr, peer: SocketAddr) -> Option<u32> {
        linux::ask(&self.0, local, peer).ok().flatten()
    }

    /// Bytes that wait in the kernel on the way from `local` to `peer`; `None` if that cannot be known.
    #[cfg(not(target_os = "linux"))]
    pub fn unacknowledged(&self, _: SocketAddr, _: SocketAddr) -> Option<u32> {
        None
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::os::fd::OwnedFd;

    use rustix::{
        io,
        net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with},
    };

    use super::{IpAddr, SocketAddr};

    pub type Asked = OwnedFd;

    /// `SOCK_DIAG_BY_FAMILY`: the type of the question, and of its answer.
    const BY_FAMILY: u16 = 20;
    /// `NLM_F_REQUEST`
    const REQUEST: u16 = 1;
    const TCP: u8 = 6;
    /// `nlmsghdr`, then `inet_diag_req_v2`.
    const QUESTION_BYTES: usize = 16 + 56;
    /// Where `idiag_wqueue` stands in the answer: `nlmsghdr`, four bytes, `inet_diag_sockid`, `expires`, `rqueue`.
    const QUEUE_AT: usize = 16 + 4 + 48 + 4 + 4;

    pub fn open() -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::SOCK_DIAG))
    }

    /// The kernel answers while the question is being sent.
    pub fn ask(kernel: &OwnedFd, local: SocketAddr, peer: SocketAddr) -> io::Result<Option<u32>> {
        send(kernel, &question(local, peer), SendFlags::empty())?;
        let mut answer = [0_u8; 512];
        let (count, _) = recv(kernel, &mut answer, RecvFlags::DONTWAIT)?;
        let answer = &answer[..count];
        let kind = answer.get(4..6).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
        let queue = answer.get(QUEUE_AT..).and_then(|rest| rest.first_chunk()).map(|bytes| u32::from_ne_bytes(*bytes));
        Ok(queue.filter(|_| kind == Some(BY_FAMILY)))
    }

    fn question(local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
        let mut question = Vec::with_capacity(QUESTION_BYTES);
        question.extend_from_slice(&(QUESTION_BYTES as u32).to_ne_bytes());
        question.extend_from_slice(&BY_FAMILY.to_ne_bytes());
        question.extend_from_slice(&REQUEST.to_ne_bytes());
        // The number of the question, and who asks: nobody else does on this socket.
        question.extend_from_slice(&[0; 8]);
        let family = if local.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        // Nothing besides, in whatever state it is.
        question.extend_from_slice(&[family.as_raw() as u8, TCP, 0, 0]);
        question.extend_from_slice(&u32::MAX.to_ne_bytes());
        question.extend_from_slice(&local.port().to_be_bytes());
        question.extend_from_slice(&peer.port().to_be_bytes());
        for address in [local.ip(), peer.ip()] {
            let mut bytes = [0; 16];
            match address {
                IpAddr::V4(ip) => bytes[..4].copy_from_slice(&ip.octets()),
                IpAddr::V6(ip) => bytes = ip.octets(),
            }
            question.extend_from_slice(&bytes);
        }
        // Any interface, and no cookie.
        question.extend_from_slice(&0_u32.to_ne_bytes());
        question.extend_from_slice(&[0xff; 8]);
        question
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        time::{Duration, Instant},
    };

    use super::*;

    #[test]
    fn it_is_told_what_a_client_has_not_taken() {
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(bind) else { continue };
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut server, peer) = listener.accept().unwrap();
            let local = server.local_addr().unwrap();
            let kernel = Kernel::open().unwrap();
            assert_eq!(kernel.unacknowledged(local, peer), Some(0), "{bind}");
            server.set_nonblocking(true).unwrap();
            let mut written = 0;
            while let Ok(count) = server.write(&[b'x'; 65_536]) {
                written += count;
            }
            let unacknowledged = kernel.unacknowledged(local, peer).unwrap() as usize;
            assert!(unacknowledged > 0 && unacknowledged <= written, "{unacknowledged} of {written}");
            // It takes all of it.
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            client.read_exact(&mut vec![0; written]).unwrap();
            let deadline = Instant::now() + Duration::from_secs(5);
            while kernel.unacknowledged(local, peer) != Some(0) {
                assert!(Instant::now() < deadline, "{:?}", kernel.unacknowledged(local, peer));
            }
            assert_eq!(kernel.unacknowledged(peer, SocketAddr::from(([127, 0, 0, 1], 1))), None, "no such socket");
        }
    }
}
