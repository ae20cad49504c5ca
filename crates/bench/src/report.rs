use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    figure::{Figure, number},
    load::Tally,
    order::Faults,
    recipe::Recipe,
};

/// A load client that is busier than this may be what limits a run.
const BUSY: f64 = 0.9;

/// A row of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Measure {
    /// Rows of a case stand together.
    pub case: String,
    pub what: &'static str,
    pub unit: &'static str,
    pub less_is_better: bool,
    pub recipe: Option<Recipe>,
}

#[derive(Debug)]
struct Row {
    measure: Measure,
    ours: Vec<f64>,
    floor: Vec<f64>,
}

/// Shares of a core, in runs of rowcast and of the floor.
#[derive(Debug, Default)]
struct Busiest {
    ours: f64,
    floor: f64,
}

/// All that was measured.
#[derive(Debug)]
pub struct Report {
    machine: String,
    cores: String,
    runs: u32,
    time: Duration,
    rows: Vec<Row>,
    faults: Faults,
    /// What else is to be known, each once.
    notes: Vec<String>,
    /// The largest share of its core that the load client used.
    busiest: Busiest,
}

impl Report {
    pub fn new(machine: String, cores: String, runs: u32, time: Duration) -> Self {
        Self {
            machine,
            cores,
            runs,
            time,
            rows: Vec::new(),
            faults: Faults::default(),
            notes: Vec::new(),
            busiest: Busiest::default(),
        }
    }

    /// How long a run measures.
    pub fn time(&self) -> Duration {
        self.time
    }

    /// Adds the figure of a run, and the floor's in the same run.
    pub fn add(&mut self, measure: Measure, ours: f64, floor: Option<f64>) {
        let index = self.rows.iter().position(|row| row.measure == measure).unwrap_or_else(|| {
            self.rows.push(Row { measure, ours: Vec::new(), floor: Vec::new() });
            self.rows.len() - 1
        });
        self.rows[index].ours.push(ours);
        self.rows[index].floor.extend(floor);
    }

    /// Notes what the clients of a run saw, and how busy they were.
    pub fn clients(&mut self, tally: &Tally, time: Duration) {
        self.faults.add(tally.faults);
        self.busiest.ours = self.busiest.ours.max(tally.cpu_s / time.as_secs_f64());
    }

    /// Notes what clients saw that others have counted.
    pub fn faults(&mut self, faults: Faults) {
        self.faults.add(faults);
    }

    /// Something to be known beside the figures.
    pub fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Notes how busy the floor's clients were.
    pub fn floors_clients(&mut self, tally: &Tally, time: Duration) {
        self.busiest.floor = self.busiest.floor.max(tally.cpu_s / time.as_secs_f64());
    }

    /// Whether nothing was missing, repeated, out of order or cut off.
    pub fn is_faultless(&self) -> bool {
        self.faults == Faults::default()
    }

    pub fn markdown(&self) -> String {
        let mut text = format!(
            "{}; {}. Median (range) of {} runs of {} s.\n\n\
             | | unit | rowcast | floor, same run | rowcast / floor | Django recipe | times better | bar |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- |\n",
            self.machine,
            self.cores,
            self.runs,
            self.time.as_secs()
        );
        let mut case = "";
        for row in &self.rows {
            if row.measure.case != case {
                case = &row.measure.case;
                text.push_str(&format!("| **{case}** | | | | | | | |\n"));
            }
            text.push_str(&row.markdown());
        }
        let Faults { missing, repeated, reordered, cut_off } = self.faults;
        let limit = |share| if share > BUSY { " (some of these figures may be its limit)" } else { "" };
        let Busiest { ours, floor } = self.busiest;
        text.push_str(&format!(
            "\nOf all changes to all clients: {missing} missing, {repeated} repeated, {reordered} reordered, \
             {cut_off} connections cut off. The load client used at most {:.0} % of its core with rowcast{}, \
             {:.0} % with the floor{}.",
            ours * 100.0,
            limit(ours),
            floor * 100.0,
            limit(floor)
        ));
        for note in &self.notes {
            text.push_str(&format!("\n{note}"));
        }
        text
    }

    pub fn json(&self) -> Value {
        let Faults { missing, repeated, reordered, cut_off } = self.faults;
        json!({
            "machine": self.machine,
            "cores": self.cores,
            "runs": self.runs,
            "seconds": self.time.as_secs(),
            "rows": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
            "faults": {"missing": missing, "repeated": repeated, "reordered": reordered, "cut_off": cut_off},
            "notes": self.notes,
            "load_client_busiest": {"rowcast": self.busiest.ours, "floor": self.busiest.floor},
        })
    }
}

impl Row {
    fn ratio(&self) -> Figure {
        Figure::new(self.ours.iter().zip(&self.floor).map(|(ours, floor)| ours / floor))
    }

    fn times_better(&self) -> Option<f64> {
        let recipe = self.measure.recipe?.value;
        let ours = Figure::new(self.ours.iter().copied()).median();
        Some(if self.measure.less_is_better { recipe / ours } else { ours / recipe })
    }

    fn markdown(&self) -> String {
        let Measure { what, unit, recipe, .. } = &self.measure;
        let (ours, floor) = (Figure::new(self.ours.iter().copied()), Figure::new(self.floor.iter().copied()));
        let recipes = recipe.map(|recipe| number(recipe.value)).unwrap_or_default();
        let (times, bar) = match (self.times_better(), recipe) {
            (Some(times), Some(recipe)) => {
                let met = if times >= recipe.bar { "met" } else { "**missed**" };
                (number(times), format!("{}: {met}", recipe.bar))
            }
            _ => Default::default(),
        };
        let ratio = self.ratio().show();
        format!("| {what} | {unit} | {} | {} | {ratio} | {recipes} | {times} | {bar} |\n", ours.show(), floor.show())
    }

    fn json(&self) -> Value {
        json!({
            "case": self.measure.case,
            "what": self.measure.what,
            "unit": self.measure.unit,
            "rowcast": Figure::new(self.ours.iter().copied()).json(),
            "floor": Figure::new(self.floor.iter().copied()).json(),
            "ratio_to_floor": self.ratio().json(),
            "recipe": self.measure.recipe.map(|recipe| recipe.value),
            "times_better": self.times_better(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_how_many_times_better_and_whether_that_is_enough() {
        let mut report = Report::new("m".into(), "c".into(), 2, Duration::from_secs(1));
        let measure = Measure {
            case: "500 clients".into(),
            what: "p50",
            unit: "ms",
            less_is_better: true,
            recipe: Some(Recipe { value: 47.0, bar: 20.0 }),
        };
        report.add(measure.clone(), 1.0, Some(0.5));
        report.add(measure, 3.0, Some(1.0));
        let row = "| p50 | ms | 2.00 (1.00–3.00) | 0.75 (0.50–1.00) | 2.50 (2.00–3.00) | 47.0 | 23.5 | 20: met |";
        assert!(report.markdown().contains(row), "{}", report.markdown());
    }
}
