use std::time::Duration;

/// What a run has shown.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Name and value, in order.
    pub figures: Vec<(String, String)>,
    /// Kind of fault, how many there were, and the recovery times that were taken, sorted.
    pub faults: Vec<(String, usize, Vec<Duration>)>,
}

impl Report {
    /// Adds a figure.
    pub fn figure(&mut self, name: &str, value: impl ToString) {
        self.figures.push((name.into(), value.to_string()));
    }

    /// The value of a figure.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.figures.iter().find(|(its, _)| its == name).map(|(_, value)| value.as_str())
    }

    /// Two tables.
    pub fn markdown(&self) -> String {
        let mut out = String::from("| torture | |\n| --- | ---: |\n");
        for (name, value) in &self.figures {
            out += &format!("| {name} | {value} |\n");
        }
        out += "\n| fault | times | recovery p50 | p99 | max |\n| --- | ---: | ---: | ---: | ---: |\n";
        for (kind, count, times) in &self.faults {
            let [p50, p99, max] = [percentile(times, 50), percentile(times, 99), times.last().copied()].map(shown);
            out += &format!("| {kind} | {count} | {p50} | {p99} | {max} |\n");
        }
        out
    }
}

fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let place = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(place).copied()
}

fn shown(time: Option<Duration>) -> String {
    time.map_or_else(|| "–".into(), |time| format!("{} ms", time.as_millis()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_time_that_was_measured() {
        let times: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        let of = |percent| percentile(&times, percent).map(|time| time.as_millis());
        assert_eq!((of(50), of(99), of(100)), (Some(100), Some(198), Some(200)));
        assert_eq!((percentile(&times[..1], 99), percentile(&[], 50)), (Some(times[0]), None));
    }
}
