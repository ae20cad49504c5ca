use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::{figure::Figure, order::Faults};

/// The row of the bare loop of writes.
pub const FLOOR: &str = "floor";
/// A load client that is busier than this may be what limits a run.
const BUSY: f64 = 0.9;

/// A row for each peer.
pub struct Table {
    machine: String,
    cores: String,
    runs: u32,
    time: Duration,
    rows: Vec<Row>,
}

/// What was measured of one peer.
#[derive(Default)]
pub struct Row {
    name: String,
    title: String,
    cells: Vec<(String, Vec<f64>)>,
    /// Loads that it did not hold, by the beginning of their columns' names.
    failed: Vec<String>,
    faults: Faults,
    /// The largest share of the load client's core that was in use.
    busiest: f64,
    note: Option<&'static str>,
}

impl Table {
    pub fn new(machine: String, cores: String, runs: u32, time: Duration) -> Self {
        Self { machine, cores, runs, time, rows: Vec::new() }
    }

    /// The row of that name, which is new if it is not there.
    pub fn row(&mut self, name: &str, title: &str) -> &mut Row {
        if self.rows.iter().all(|row| row.name != name) {
            self.rows.push(Row { name: name.into(), title: title.into(), ..Row::default() });
        }
        self.known(name)
    }

    /// As [`Table::row`], of one that is there already or needs no other title.
    pub fn known(&mut self, name: &str) -> &mut Row {
        let at = self.rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
            self.rows.push(Row { name: name.into(), title: name.into(), ..Row::default() });
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }

    /// What the clients of one saw.
    pub fn faults(&self, name: &str) -> Faults {
        self.rows.iter().find(|row| row.name == name).map(|row| row.faults).unwrap_or_default()
    }

    pub fn markdown(&self) -> String {
        let columns = self.columns();
        let mut text = format!(
            "{}; {}. Median (range) of {} runs of {} s.\n\n| | {} | faults |\n| --- |{}\n",
            self.machine,
            self.cores,
            self.runs,
            self.time.as_secs(),
            columns.join(" | "),
            " --- |".repeat(columns.len() + 1)
        );
        self.rows.iter().for_each(|row| text.push_str(&row.markdown(&columns)));
        for row in self.rows.iter().filter(|row| row.busiest > BUSY) {
            let percent = row.busiest * 100.0;
            text.push_str(&format!(
                "\nThe load client's core was in use for {percent:.0} % with {}: it may be what limits some of its figures.",
                row.title
            ));
        }
        text
    }

    pub fn json(&self) -> Value {
        json!({
            "machine": self.machine,
            "cores": self.cores,
            "runs": self.runs,
            "seconds": self.time.as_secs(),
            "rows": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
        })
    }

    /// Of all rows; the floor has fewer.
    fn columns(&self) -> Vec<&str> {
        let fullest = self.rows.iter().max_by_key(|row| row.cells.len());
        fullest.map(|row| row.cells.iter().map(|(column, _)| column.as_str()).collect()).unwrap_or_default()
    }
}

impl Row {
    /// Adds the figure of a run.
    pub fn add(&mut self, column: &str, value: f64) {
        match self.cells.iter_mut().find(|(known, _)| known == column) {
            Some((_, values)) => values.push(value),
            None => self.cells.push((column.into(), vec![value])),
        }
    }

    /// It did not hold the load of the columns that begin so.
    pub fn failed(&mut self, load: &str) {
        self.failed.push(load.into());
    }

    /// Something to be said instead of figures.
    pub fn note(&mut self, note: &'static str) {
        self.note = Some(note);
    }

    pub fn saw(&mut self, faults: Faults) {
        self.faults.add(faults);
    }

    pub fn busy(&mut self, share: f64) {
        self.busiest = self.busiest.max(share);
    }

    fn markdown(&self, columns: &[&str]) -> String {
        if let Some(note) = self.note {
            return format!("| {} | {note} |{}\n", self.title, " |".repeat(columns.len()));
        }
        let cell = |column: &&str| {
            let values = self.cells.iter().find(|(known, _)| known == column).map(|(_, values)| values.iter().copied());
            let failed = self.failed.iter().filter(|load| column.starts_with(load.as_str())).count();
            match (values.map(Figure::new), failed) {
                (Some(figure), 0) => figure.show(),
                (Some(figure), failed) => format!("{}; not held in {failed} more", figure.show()),
                (None, 0) => String::new(),
                (None, _) => "cannot hold it".into(),
            }
        };
        let cells: Vec<String> = columns.iter().map(cell).collect();
        format!("| {} | {} | {} |\n", self.title, cells.join(" | "), self.faults())
    }

    fn faults(&self) -> String {
        let Faults { missing, repeated, reordered, cut_off } = self.faults;
        let named =
            [(missing, "missing"), (repeated, "repeated"), (reordered, "reordered"), (cut_off, "connections cut off")];
        let some: Vec<String> =
            named.iter().filter(|(count, _)| *count > 0).map(|(count, name)| format!("{count} {name}")).collect();
        if some.is_empty() { "0".into() } else { some.join(", ") }
    }

    fn json(&self) -> Value {
        let cells: Map<String, Value> = self
            .cells
            .iter()
            .map(|(column, values)| (column.clone(), Figure::new(values.iter().copied()).json()))
            .collect();
        json!({
            "peer": self.title,
            "figures": cells,
            "cannot_hold": self.failed,
            "faults": self.faults(),
            "load_client_busiest": self.busiest,
            "note": self.note,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_was_measured_what_was_too_much_and_who_is_not_there() {
        let mut table = Table::new("m".into(), "c".into(), 2, Duration::from_secs(1));
        table.row(FLOOR, "a bare loop of writes").add("10 clients: 1/s", 100.0);
        for value in [20.0, 40.0] {
            let row = table.row("one", "One 1.0");
            row.add("10 clients: 1/s", value);
            row.add("20 clients: 1/s", value);
        }
        table.known("one").saw(Faults { missing: 3, ..Faults::default() });
        let other = table.row("other", "Other 2.0");
        other.add("10 clients: 1/s", 5.0);
        other.failed("20 clients");
        table.row("third", "Third").note("not installed");
        let rows = "| a bare loop of writes | 100 |  | 0 |\n\
                    | One 1.0 | 30.0 (20.0–40.0) | 30.0 (20.0–40.0) | 3 missing |\n\
                    | Other 2.0 | 5.00 | cannot hold it | 0 |\n\
                    | Third | not installed | | |\n";
        assert!(table.markdown().ends_with(rows), "{}", table.markdown());
    }
}
