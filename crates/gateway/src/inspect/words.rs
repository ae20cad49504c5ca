//! Figures as people say them.

use std::time::Duration;

/// How long something takes: `250 ms`, `12 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`.
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let two = |whole: u64, of: &str, rest: u64, part: &str| match rest {
        0 => format!("{whole} {of}"),
        rest => format!("{whole} {of} {rest} {part}"),
    };
    match seconds {
        0 => format!("{} ms", span.as_millis()),
        1..60 => format!("{seconds} s"),
        60..3600 => two(seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds / 60 % 60, "min"),
        _ => two(seconds / 86_400, "d", seconds / 3600 % 24, "h"),
    }
}

/// So many of something.
pub fn count(count: usize, one: &str, many: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {many}") }
}

/// So many bytes.
pub fn bytes(bytes: u64) -> String {
    match bytes {
        0..1024 => count(bytes as usize, "byte", "bytes"),
        1024..1_048_576 => format!("{} KiB", bytes.div_ceil(1024)),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        let said = [250, 12_000, 60_000, 200_000, 7_500_000, 273_600_000].map(|ms| span(Duration::from_millis(ms)));
        assert_eq!(said, ["250 ms", "12 s", "1 min", "3 min 20 s", "2 h 5 min", "3 d 4 h"]);
        assert_eq!([1, 2].map(|of| count(of, "change", "changes")), ["1 change", "2 changes"]);
        assert_eq!([1, 1023, 1025, 1_572_864].map(bytes), ["1 byte", "1023 bytes", "2 KiB", "1.5 MiB"]);
    }
}
