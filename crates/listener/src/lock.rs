//! The leader's lock: a session advisory lock, so it ends with the session that holds it.

/// Of all listeners on one database with one namespace, the one that holds this is active.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeaderLock {
    key: i64,
}

impl LeaderLock {
    /// The key is the FNV-1a hash of the namespace, 64 bits: the same in every version.
    pub(crate) fn of(namespace: &str) -> Self {
        Self::named("rowcast:leader:", namespace)
    }

    /// The lock of who reads the log: there is one log in a database, whatever the namespace.
    pub(crate) fn of_log() -> Self {
        Self::named("rowcast:", "log")
    }

    fn named(kind: &str, name: &str) -> Self {
        let hash = kind
            .bytes()
            .chain(name.bytes())
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        Self { key: hash.cast_signed() }
    }

    /// Takes it if it is free; never waits.
    pub(crate) fn try_sql(self) -> String {
        format!("select pg_catalog.pg_try_advisory_lock({})", self.key)
    }

    /// Whether this session holds it.
    pub(crate) fn held_sql(self) -> String {
        let holding = self.holding();
        format!(
            "select exists (select from pg_catalog.pg_locks l where {holding} and l.pid = pg_catalog.pg_backend_pid())"
        )
    }

    /// Who holds it and is no listener, in words; empty if nobody does. Any role of the database may
    /// take an advisory lock, and whoever keeps this one keeps all listeners from leading. A listener
    /// has our role, or says by its name that it is one.
    pub(crate) fn stranger_sql(self) -> String {
        let holding = self.holding();
        format!(
            "select coalesce((select pg_catalog.format('the lock of who leads is held by a session that is no listener: pid %s of role %s', a.pid, a.usename) \
             from pg_catalog.pg_locks l join pg_catalog.pg_stat_activity a on a.pid = l.pid where {holding} \
             and a.usename <> current_user and a.application_name not like 'rowcast%' limit 1), '')"
        )
    }

    fn holding(self) -> String {
        let (high, low) = (self.key.cast_unsigned() >> 32, self.key.cast_unsigned() & 0xffff_ffff);
        format!(
            "l.locktype = 'advisory' and l.granted \
             and l.classid = '{high}'::oid and l.objid = '{low}'::oid and l.objsubid = 1 \
             and l.database = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())"
        )
    }

    /// Gives it back, for a standby that waits.
    pub(crate) fn release_sql(self) -> String {
        format!("select pg_catalog.pg_advisory_unlock({})", self.key)
    }
}
