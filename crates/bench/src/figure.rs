use serde_json::{Value, json};

/// One measured value, over all runs.
#[derive(Debug, Clone, Default)]
pub struct Figure(Vec<f64>);

impl Figure {
    pub fn new(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// The middle value; between two, their mean.
    pub fn median(&self) -> f64 {
        let half = self.0.len() / 2;
        match self.0.len() {
            0 => f64::NAN,
            odd if odd % 2 == 1 => self.0[half],
            _ => f64::midpoint(self.0[half - 1], self.0[half]),
        }
    }

    /// The median, and the range if there is one.
    pub fn show(&self) -> String {
        match &self.0[..] {
            [] => String::new(),
            [one] => number(*one),
            [least, .., most] => format!("{} ({}–{})", number(self.median()), number(*least), number(*most)),
        }
    }

    pub fn json(&self) -> Value {
        json!({"median": self.median(), "runs": self.0})
    }
}

/// Three digits that count.
pub fn number(value: f64) -> String {
    match value.abs() {
        10_000_000.0.. => format!("{:.1} M", value / 1e6),
        1_000_000.0.. => format!("{:.2} M", value / 1e6),
        100_000.0.. => format!("{:.0} k", value / 1e3),
        10_000.0.. => format!("{:.1} k", value / 1e3),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_shown_as_median_and_range() {
        assert_eq!(Figure::new([3.0, 1.0, 2.0]).show(), "2.00 (1.00–3.00)");
        assert_eq!(Figure::new([1.0, 2.0]).median(), 1.5);
        assert_eq!(Figure::new([228_412.0]).show(), "228 k");
        assert_eq!((Figure::default().show(), number(4_012_000.0)), (String::new(), "4.01 M".into()));
    }
}
