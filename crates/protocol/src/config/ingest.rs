use std::collections::HashSet;

use serde::Deserialize;

use super::{ConfigError, wrong};

/// `[[ingest]]`: a path where a POST inserts one row into one table, only the columns named.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ingest {
    /// The path, such as `/api/sensors/`.
    pub path: String,
    /// The table, as `table` or `schema.table`; each part is taken as it stands, and quoted.
    pub table: String,
    /// The columns that a client may set.
    pub columns: Vec<String>,
    /// What the answer says under `message`, beside the stored row.
    #[serde(default)]
    pub message: Option<String>,
}

impl Ingest {
    /// The table's schema, if named, and its name.
    pub fn table_parts(&self) -> (Option<&str>, &str) {
        match self.table.split_once('.') {
            Some((schema, name)) => (Some(schema), name),
            None => (None, &self.table),
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let (schema, name) = self.table_parts();
        let is_identifier = |part: &str| !part.is_empty() && part.len() <= 63 && !part.contains('\0');
        if !schema.is_none_or(is_identifier) || !is_identifier(name) {
            return Err(wrong("ingest.table", &self.table, "a table, as table or schema.table"));
        }
        let mut seen = HashSet::new();
        if self.columns.is_empty() {
            return Err(wrong("ingest.columns", "[]", "the list of columns that a client may set"));
        }
        for column in &self.columns {
            if !is_identifier(column) || !seen.insert(column) {
                return Err(wrong("ingest.columns", column, "column names, each once"));
            }
        }
        Ok(())
    }
}
