use std::{
    fs::File,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::Context;

/// Below the range that the kernel gives to outgoing connections, so that a server can come back
/// on the port that it had.
const FIRST: u16 = 18_000;
const LAST: u16 = 32_000;

/// A free port of 127.0.0.1 that no other test takes while this lives, in whichever process: a
/// lock on a file says so.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Takes one.
    pub fn take() -> anyhow::Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let folder = std::env::temp_dir().join("rowcast-test-ports");
        std::fs::create_dir_all(&folder)?;
        // Others may run tests as another user; whoever made it has opened it already.
        drop(std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o777)));
        let count = LAST - FIRST;
        let start = (std::process::id() % u32::from(count)) as u16;
        (0..count)
            .map(|_| FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed) % count) % count)
            .find_map(|number| Self::lock(folder.join(number.to_string()), number))
            .context("no free port")
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    fn lock(path: PathBuf, number: u16) -> Option<Self> {
        let lock = File::create(path).ok()?;
        lock.try_lock().ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        Some(Self { number, _lock: lock })
    }
}
