//! How many may connect, and how often one may speak.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Counts connections, in all and per client. Cheap to clone.
#[derive(Clone)]
pub struct Limits(Arc<Inner>);

struct Inner {
    max: usize,
    max_per_ip: usize,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    all: usize,
    per_ip: HashMap<IpAddr, usize>,
}

/// Why there is no room for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// The gateway is full.
    #[error("the gateway has {0} connections, which is all that it takes")]
    Full(usize),
    /// This client has enough.
    #[error("{0} connections are open from this address, which is all that one may have")]
    PerIp(usize),
}

impl Limits {
    /// At most `max` connections, and `max_per_ip` from one client.
    pub fn new(max: usize, max_per_ip: usize) -> Self {
        Self(Arc::new(Inner { max, max_per_ip, open: Mutex::default() }))
    }

    /// Room for one connection, until the permit is dropped.
    pub fn admit(&self, ip: IpAddr) -> Result<Permit, LimitError> {
        let client = client(ip);
        let mut open = self.open();
        if open.all >= self.0.max {
            return Err(LimitError::Full(self.0.max));
        }
        let of_client = open.per_ip.get(&client).copied().unwrap_or(0);
        if of_client >= self.0.max_per_ip {
            return Err(LimitError::PerIp(self.0.max_per_ip));
        }
        open.all += 1;
        open.per_ip.insert(client, of_client + 1);
        Ok(Permit { limits: self.clone(), client })
    }

    /// How many there may be.
    pub fn most(&self) -> usize {
        self.0.max
    }

    /// How many permits are out.
    pub fn count(&self) -> usize {
        self.open().all
    }

    /// Held only to count, so it cannot be poisoned half way.
    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that counts. Dropping it makes room.
#[must_use = "the connection counts only while this is kept"]
pub struct Permit {
    limits: Limits,
    client: IpAddr,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.limits.open();
        open.all -= 1;
        match open.per_ip.get_mut(&self.client) {
            Some(count) if *count > 1 => *count -= 1,
            // Addresses that are gone leave nothing behind.
            _ => drop(open.per_ip.remove(&self.client)),
        }
    }
}

/// Who counts as one: an IPv4 address, or the /64 that one IPv6 customer gets at least.
fn client(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

/// Messages per second of one connection: a token bucket that holds one second's worth. It keeps
/// only when the bucket will be full again (GCRA), so it needs no timer, and 16 bytes.
#[derive(Debug, Clone, Copy)]
pub struct MessageRate {
    full_at: Instant,
}

impl MessageRate {
    /// A full bucket.
    pub fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Whether a message may come now. One that may not takes nothing from the bucket.
    pub fn allow(&mut self, now: Instant, per_s: NonZeroU32) -> bool {
        let full_at = self.full_at.max(now) + Duration::from_secs(1) / per_s.get();
        let allowed = full_at - now <= Duration::from_secs(1);
        if allowed {
            self.full_at = full_at;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_client_has_its_share_and_no_more() {
        let limits = Limits::new(100, 2);
        let first = limits.admit(ip("192.0.2.1")).unwrap();
        let _second = limits.admit(ip("::ffff:192.0.2.1")).unwrap();
        assert_eq!(limits.admit(ip("192.0.2.1")).map(drop), Err(LimitError::PerIp(2)));
        let _other = limits.admit(ip("192.0.2.2")).unwrap();
        drop(first);
        assert!(limits.admit(ip("192.0.2.1")).is_ok());
    }

    #[test]
    fn a_64_counts_as_one_client() {
        let limits = Limits::new(100, 1);
        let _one = limits.admit(ip("2001:db8:0:1::1")).unwrap();
        assert!(limits.admit(ip("2001:db8:0:1:ffff::2")).is_err());
        assert!(limits.admit(ip("2001:db8:0:2::1")).is_ok());
    }

    #[test]
    fn a_full_gateway_takes_nobody_until_somebody_leaves() {
        let limits = Limits::new(2, 100);
        let permits = [limits.admit(ip("192.0.2.1")).unwrap(), limits.admit(ip("192.0.2.2")).unwrap()];
        assert_eq!(limits.admit(ip("192.0.2.3")).map(drop), Err(LimitError::Full(2)));
        assert_eq!(limits.count(), 2);
        drop(permits);
        assert_eq!(limits.count(), 0);
        assert!(limits.open().per_ip.is_empty(), "addresses that are gone are forgotten");
        assert!(limits.admit(ip("192.0.2.3")).is_ok());
    }

    #[test]
    fn a_second_holds_as_many_messages_as_were_agreed() {
        let (start, rate) = (Instant::now(), NonZeroU32::new(50).unwrap());
        let mut bucket = MessageRate::new(start);
        let burst = (0..100).filter(|_| bucket.allow(start, rate)).count();
        assert_eq!(burst, 50);
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert!(bucket.allow(at(20), rate) && !bucket.allow(at(20), rate));
        let steady = (2..=100).filter(|n| bucket.allow(at(n * 20), rate)).count();
        assert_eq!(steady, 99, "the agreed rate can be kept up");
        let second = (0..1000).filter(|ms| bucket.allow(at(10_000 + ms), rate)).count();
        assert!((99..=100).contains(&second), "a burst of 50, then 50 a second: {second}");
        assert!(size_of::<MessageRate>() <= 16);
    }

    #[test]
    fn an_odd_rate_is_not_starved() {
        let (start, rate) = (Instant::now(), NonZeroU32::MIN);
        let mut bucket = MessageRate::new(start);
        assert!(bucket.allow(start, rate) && !bucket.allow(start + Duration::from_millis(999), rate));
        assert!(bucket.allow(start + Duration::from_secs(1), rate));
    }
}
