//! The SQL of an ingest: made of the configuration's identifiers, and of nothing that a client sent.

use protocol::config::Ingest;

/// Where the rows of one path go.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) path: String,
    pub(super) columns: Vec<String>,
    /// Quoted.
    table: String,
}

impl Target {
    pub(super) fn new(ingest: &Ingest) -> Self {
        let table = match ingest.table_parts() {
            (Some(schema), table) => format!("{}.{}", quoted(schema), quoted(table)),
            (None, table) => quoted(table),
        };
        Self { path: ingest.path.clone(), columns: ingest.columns.clone(), table }
    }

    /// Stores one row, whose columns come as one JSON object in `$1`, and returns it as JSON. Only
    /// the named columns are listed, so that the others get their defaults. With no column there is
    /// no parameter.
    pub(super) fn insert(&self, columns: &[usize]) -> String {
        self.insert_from(columns, "$1")
    }

    /// Whether table and columns can be used, without storing anything.
    pub(super) fn explain(&self) -> String {
        let all: Vec<usize> = (0..self.columns.len()).collect();
        format!("explain {}", self.insert_from(&all, "'{}'"))
    }

    fn insert_from(&self, columns: &[usize], json: &str) -> String {
        let table = &self.table;
        let names: Vec<String> = columns.iter().map(|index| quoted(&self.columns[*index])).collect();
        // stored.* and not stored: the table may have a column of that name.
        let returning = "returning pg_catalog.row_to_json(stored.*)::pg_catalog.text";
        if names.is_empty() {
            return format!("insert into {table} as stored default values {returning}");
        }
        let values: Vec<String> = names.iter().map(|name| format!("input.{name}")).collect();
        let from = format!("pg_catalog.json_populate_record(null::{table}, {json}::pg_catalog.text::pg_catalog.json)");
        format!(
            "insert into {table} as stored ({}) select {} from {from} as input {returning}",
            names.join(", "),
            values.join(", ")
        )
    }
}

fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_quoted_and_values_are_a_parameter() {
        let target = Target::new(&Ingest {
            path: "/x".into(),
            table: "my schema.ta\"ble".into(),
            columns: vec!["a\"; drop table x; --".into(), "B".into()],
            message: None,
        });
        let sql = target.insert(&[0, 1]);
        assert!(
            sql.starts_with(r#"insert into "my schema"."ta""ble" as stored ("a""; drop table x; --", "B") "#),
            "{sql}"
        );
        assert!(sql.contains(r#"null::"my schema"."ta""ble", $1::"#), "{sql}");
        assert!(target.insert(&[1]).contains(r#"as stored ("B") select input."B" from"#));
        assert_eq!(target.insert(&[]).matches('$').count(), 0);
        assert!(target.explain().starts_with("explain insert into "));
    }
}
