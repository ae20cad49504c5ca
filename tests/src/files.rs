use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit on open files to what is allowed, for this process and those it starts; returns
/// it. Thousands of sockets need more than the usual 1,024.
pub fn raise_limit() -> anyhow::Result<u64> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    Ok(maximum.unwrap_or(1 << 20).min(1 << 20))
}
