use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use anyhow::Context;
use serde_json::value::RawValue;
use tokio::time::timeout;
use tokio_postgres::Client;

use super::{
    change::{Change, digest},
    table::{Old, TABLES, TableId, partition_has, table_of},
};

/// The tables as changes make them: what a client would show. Of each row it keeps the key, and a
/// digest of the rest; `None` where a change came without its large values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replica {
    tables: [HashMap<String, Option<u64>>; TABLES.len()],
}

type Row<'a> = BTreeMap<String, &'a RawValue>;

impl Replica {
    /// Applies a change as a client does: keyed by the key columns that it names. `Err` says how it
    /// contradicts what came before: an insert of a row that is there, an update or delete of one
    /// that is not, an old row that is not the one before.
    pub fn apply(&mut self, change: &Change<'_>) -> Result<(), String> {
        let id = table_of(change.topic).ok_or_else(|| format!("nobody watches {}", change.topic))?;
        let table = &mut self.tables[usize::from(id)];
        if change.op == "TRUNCATE" {
            return truncate(table, change);
        }
        let [new, old] = keys(change)?;
        let wanted = match change.op {
            "INSERT" => (true, false),
            "UPDATE" => (true, TABLES[usize::from(id)].old == Old::Full),
            "DELETE" => (false, true),
            other => return Err(format!("no op '{other}'")),
        };
        if new.is_some() != wanted.0 || (wanted.1 && old.is_none()) || (change.op == "INSERT" && old.is_some()) {
            return Err(format!("{}: the new row's key is {new:?}, the old one's {old:?}", change.op));
        }
        if change.op != "INSERT" {
            let before = old.as_ref().or(new.as_ref()).ok_or("no key")?;
            let known = table.remove(before).ok_or_else(|| format!("{} of {before}, which is not there", change.op))?;
            let same = match (known, change.old) {
                (Some(known), Some(old)) if TABLES[usize::from(id)].old == Old::Full => known == digest(old),
                _ => true,
            };
            if !same && change.cut.is_none() {
                return Err(format!("{} of {before}: the old row is not the one before", change.op));
            }
        }
        if let (Some(new), Some(data)) = (new, change.data)
            && table.insert(new.clone(), change.cut.is_none().then(|| digest(data))).is_some()
        {
            return Err(format!("{} makes {new}, which is there", change.op));
        }
        Ok(())
    }

    /// Applies what several changes of a row came to. It may have come before, and a row may be
    /// deleted that has never been told.
    pub fn put(&mut self, change: &Change<'_>) -> Result<(), String> {
        let id = table_of(change.topic).ok_or_else(|| format!("nobody watches {}", change.topic))?;
        let table = &mut self.tables[usize::from(id)];
        if change.op == "TRUNCATE" {
            return truncate(table, change);
        }
        let [new, old] = keys(change)?;
        if let Some(old) = old {
            table.remove(&old);
        }
        if let (Some(new), Some(data)) = (new, change.data) {
            table.insert(new, change.cut.is_none().then(|| digest(data)));
        }
        Ok(())
    }

    /// How many rows it has.
    pub fn rows(&self) -> usize {
        self.tables.iter().map(HashMap::len).sum()
    }

    /// Compares with the tables; `Err` says what differs.
    pub fn compare(&self, truth: &Self) -> Result<(), String> {
        for (id, (mine, theirs)) in self.tables.iter().zip(&truth.tables).enumerate() {
            let differs = |key: &&String| match (mine.get(*key), theirs.get(*key)) {
                (Some(mine), Some(theirs)) => mine.is_some() && theirs.is_some() && mine != theirs,
                _ => true,
            };
            let mut all: Vec<&String> = mine.keys().chain(theirs.keys()).filter(differs).collect();
            all.sort();
            all.dedup();
            if let Some(first) = all.first() {
                let place = |rows: &HashMap<String, Option<u64>>| match rows.get(*first) {
                    None => "not there".to_owned(),
                    Some(digest) => format!("{digest:x?}"),
                };
                return Err(format!(
                    "{}: {} rows differ ({} by the changes, {} in the table), the first is {first}: {} by the changes, {} in the table",
                    TABLES[id].topic,
                    all.len(),
                    mine.len(),
                    theirs.len(),
                    place(mine),
                    place(theirs),
                ));
            }
        }
        Ok(())
    }

    /// Reads the tables themselves.
    pub async fn of_tables(client: &Client) -> anyhow::Result<Self> {
        let mut replica = Self::default();
        for (id, table) in TABLES.iter().enumerate() {
            let sql = format!("select row_to_json(t)::text from {} t", table.sql);
            let rows = timeout(Duration::from_secs(60), client.query(&sql, &[])).await??;
            for row in rows {
                let data: String = row.get(0);
                let names = key_names(id as TableId);
                let values: Row<'_> = serde_json::from_str(&data)?;
                let key: Option<Vec<_>> = names.iter().map(|name| values.get(*name).map(|v| v.get())).collect();
                let key = key.context("a key column is missing")?.join(",");
                replica.tables[id].insert(format!("[{key}]"), Some(digest(&*data)));
            }
        }
        Ok(replica)
    }
}

/// The keys of the new row and of the old one.
fn keys(change: &Change<'_>) -> Result<[Option<String>; 2], String> {
    let names: Vec<String> = parsed(change.key.ok_or("no key columns")?)?;
    let key = |row: &str| -> Result<Option<String>, String> {
        let row: Row<'_> = parsed(row)?;
        let values: Option<Vec<_>> = names.iter().map(|name| row.get(name).map(|value| value.get())).collect();
        Ok(values.map(|values| format!("[{}]", values.join(","))))
    };
    Ok([change.data.map(key).transpose()?.flatten(), change.old.map(key).transpose()?.flatten()])
}

fn key_names(table: TableId) -> Vec<&'static str> {
    TABLES[usize::from(table)].key.split(", ").map(|name| name.trim_matches('"')).collect()
}

fn truncate(table: &mut HashMap<String, Option<u64>>, change: &Change<'_>) -> Result<(), String> {
    let Some(data) = change.data else {
        table.clear();
        return Ok(());
    };
    let which: BTreeMap<String, String> = parsed(data)?;
    let partition = which.get("partition").ok_or_else(|| format!("a TRUNCATE with {data}"))?;
    table.retain(|key, _| !partition_has(partition, key.trim_start_matches('[')));
    Ok(())
}

fn parsed<'a, T: serde::Deserialize<'a>>(json: &'a str) -> Result<T, String> {
    serde_json::from_str(json).map_err(|error| format!("{error}: {json}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change<'a>(op: &'a str, data: Option<&'a str>, old: Option<&'a str>) -> Change<'a> {
        Change { topic: "public.numbers", op, key: Some(r#"["id"]"#), data, old, cut: None, tx: 1, at: "" }
    }

    const A1: Option<&str> = Some(r#"{"id":1,"n":1}"#);
    const A2: Option<&str> = Some(r#"{"id":1,"n":2}"#);
    const B2: Option<&str> = Some(r#"{"id":2,"n":2}"#);

    #[test]
    fn changes_make_the_table() {
        let mut replica = Replica::default();
        for change in [
            change("INSERT", A1, None),
            change("UPDATE", A2, A1),
            change("UPDATE", B2, A2),
            change("INSERT", A1, None),
            change("DELETE", None, B2),
        ] {
            replica.apply(&change).unwrap();
        }
        let mut table = Replica::default();
        table.apply(&change("INSERT", A1, None)).unwrap();
        assert_eq!(replica.compare(&table), Ok(()));
        table.apply(&change("UPDATE", A2, A1)).unwrap();
        assert!(replica.compare(&table).is_err());
        table.apply(&change("TRUNCATE", None, None)).unwrap();
        assert_eq!((table.rows(), replica.rows()), (0, 1));
        assert!(replica.compare(&table).unwrap_err().contains("[1]"));
    }

    #[test]
    fn a_partition_takes_its_own_rows_with_it() {
        let row = |region: &str| format!(r#"{{"region":"{region}","id":5}}"#);
        let (north, west) = (row("north"), row("west"));
        let change = |op, data| Change {
            topic: "public.parts",
            op,
            key: Some(r#"["region","id"]"#),
            data: Some(data),
            old: None,
            cut: None,
            tx: 1,
            at: "",
        };
        let mut replica = Replica::default();
        replica.apply(&change("INSERT", &north)).unwrap();
        replica.apply(&change("INSERT", &west)).unwrap();
        replica.apply(&change("TRUNCATE", r#"{"partition":"public.parts_rest"}"#)).unwrap();
        assert_eq!(replica.tables[3].keys().collect::<Vec<_>>(), [r#"["north",5]"#]);
    }

    #[test]
    fn what_contradicts_the_order_of_a_row_is_noticed() {
        for (first, second) in [
            (change("INSERT", A1, None), change("INSERT", A1, None)),
            (change("INSERT", A1, None), change("UPDATE", A1, A2)),
            (change("INSERT", A1, None), change("DELETE", None, A2)),
            (change("INSERT", A1, None), change("DELETE", None, B2)),
            (change("INSERT", A1, None), change("UPDATE", B2, B2)),
            (change("INSERT", A1, None), change("DELETE", None, None)),
        ] {
            let mut replica = Replica::default();
            replica.apply(&first).unwrap();
            assert!(replica.apply(&second).is_err(), "{second:?}");
        }
    }
}
