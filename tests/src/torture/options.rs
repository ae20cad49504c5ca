use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use super::{fault::Fault, schedule::schedule, terms::Terms};

/// What a run is to be like.
#[derive(Clone)]
pub struct Options {
    /// Decides everything that chance decides.
    pub seed: u64,
    /// How long the writers write and the faults come.
    pub length: Duration,
    /// Clients of the crowd; builders and watchers come on top.
    pub clients: usize,
    /// Writers.
    pub writers: usize,
    /// Transactions a second, of all writers.
    pub rate: u64,
    /// Gateways.
    pub gateways: usize,
    /// Only faults whose kind has one of these in its name.
    pub only: Vec<String>,
    /// No faults whose kind has one of these in its name.
    pub except: Vec<String>,
    /// Whether there are faults.
    pub faults: bool,
    /// Where logs are kept if something goes wrong.
    pub folder: PathBuf,
    /// What to do with a line of progress.
    pub say: Say,
}

/// What to do with a line of progress.
pub type Say = Arc<dyn Fn(&str) + Send + Sync>;

impl Options {
    /// A run of a length, of the usual size.
    pub fn of(seed: u64, length: Duration) -> Self {
        let folder = std::env::temp_dir().join(format!("rowcast-torture-{seed}-{}", std::process::id()));
        Self {
            seed,
            length,
            clients: 300,
            writers: 12,
            rate: 120,
            gateways: 3,
            only: Vec::new(),
            except: Vec::new(),
            faults: true,
            folder,
            say: Arc::new(|_| {}),
        }
    }

    /// What is struck, and when.
    pub fn schedule(&self) -> Vec<Fault> {
        if self.faults { schedule(self.seed, self.length, self.gateways, &self.only, &self.except) } else { Vec::new() }
    }

    /// All that the seed decides about the parts.
    pub fn plan(&self) -> String {
        let faults: Vec<String> = self.schedule().iter().map(Fault::to_string).collect();
        format!("{:?}\n{}", Terms::of(self.seed), faults.join("\n"))
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, length, clients, writers, rate, gateways, .. } = self;
        f.debug_list().entries([seed, &length.as_secs(), rate]).entries([clients, writers, gateways]).finish()
    }
}
