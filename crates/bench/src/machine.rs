use std::fs;

/// What kind of machine this is; nothing that tells which one.
pub fn describe() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let value = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.split(':').nth(1).unwrap_or_default().trim().to_owned()
    };
    let model = value(&read("/proc/cpuinfo"), "model name");
    let memory = value(&read("/proc/meminfo"), "MemTotal");
    let memory_gib = memory.trim_end_matches(" kB").parse::<f64>().unwrap_or_default() / 1024.0 / 1024.0;
    let kernel: String = read("/proc/sys/kernel/osrelease").split('-').next().unwrap_or_default().trim().into();
    let load = read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned();
    format!("{cores} cores ({model}), {memory_gib:.0} GiB, Linux {kernel}; load average {load} at the start")
}

/// Makes the kernel's table of this process' files large enough for so many. Each time that it grows
/// it keeps whoever opens a file waiting for 6 to 24 ms, which would count as a slow connect.
pub fn reserve_files(count: u64) -> anyhow::Result<()> {
    // The table stays as it is when the file is closed.
    rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), i32::try_from(count)? - 1)?;
    Ok(())
}

/// Allows as many open files as the system lets a process have, and says how many that is.
pub fn open_files() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(_) => limit.current.unwrap_or(u64::MAX),
    }
}
