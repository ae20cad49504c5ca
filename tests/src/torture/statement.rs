use super::{
    dice::Dice,
    table::{KEYS, TABLES, Table, WRITTEN},
};

/// One random statement on one of the watched tables, a single row mostly.
pub fn statement(dice: &mut Dice) -> String {
    let table = &TABLES[usize::from(dice.pick(&WRITTEN))];
    match dice.within(0..=999) {
        0..=1 => truncate(dice, table),
        2..=9 => bulk(dice, table),
        10..=299 => insert(dice, table, 1),
        300..=449 => upsert(dice, table, 1),
        450..=699 => update(dice, table, 1),
        700..=849 => delete(dice, table, 1),
        850..=929 => change_key(dice, table),
        _ => {
            let rows = dice.within(2..=20);
            several(dice, table, rows)
        }
    }
}

fn several(dice: &mut Dice, table: &Table, rows: u64) -> String {
    match dice.within(0..=3) {
        0 => insert(dice, table, rows),
        1 => upsert(dice, table, rows),
        2 => update(dice, table, rows),
        _ => delete(dice, table, rows),
    }
}

fn bulk(dice: &mut Dice, table: &Table) -> String {
    // Mostly hundreds; some thousand now and then.
    let rows = if dice.percent(20) { dice.within(1_000..=KEYS) } else { dice.within(50..=500) };
    several(dice, table, rows)
}

fn insert(dice: &mut Dice, table: &Table, rows: u64) -> String {
    // Every fourth fails if the row is there, and takes its transaction with it.
    let conflict = if dice.percent(25) { "" } else { " on conflict do nothing" };
    format!("{}{conflict}", values(dice, table, rows))
}

fn upsert(dice: &mut Dice, table: &Table, rows: u64) -> String {
    let Table { sql, key, .. } = table;
    let values = values(dice, table, rows);
    format!("{values} on conflict ({key}) do update set n = {sql}.n + 1, note = excluded.note")
}

fn values(dice: &mut Dice, table: &Table, rows: u64) -> String {
    let Table { sql, key, key_of, .. } = table;
    let (n, note, range) = (dice.within(0..=1_000), note(dice, rows), range(dice, rows));
    format!("insert into {sql} ({key}, n, note) select {key_of}, {n} + g, {note} from {range}")
}

fn update(dice: &mut Dice, table: &Table, rows: u64) -> String {
    let Table { sql, key, key_of, .. } = table;
    let (note, range) = (note(dice, rows), range(dice, rows));
    format!("update {sql} set n = n + 1, note = {note} where ({key}) in (select {key_of} from {range})")
}

fn delete(dice: &mut Dice, table: &Table, rows: u64) -> String {
    let Table { sql, key, key_of, .. } = table;
    let range = range(dice, rows);
    format!("delete from {sql} where ({key}) in (select {key_of} from {range})")
}

/// Of a partitioned table it moves the row, three times of four.
fn change_key(dice: &mut Dice, table: &Table) -> String {
    let Table { sql, key, key_of, .. } = table;
    let (from, to) = (range(dice, 1), range(dice, 1));
    format!(
        "update {sql} set ({key}) = (select {key_of} from {to}), n = n + 1 where ({key}) in (select {key_of} from {from})"
    )
}

fn truncate(dice: &mut Dice, table: &Table) -> String {
    match table.sql {
        "parts" => format!("truncate {}", dice.pick(&["parts", "parts_north", "parts_rest"])),
        sql => format!("truncate {sql}"),
    }
}

fn range(dice: &mut Dice, rows: u64) -> String {
    let first = dice.within(0..=KEYS - rows);
    format!("generate_series({first}, {}) g", first + rows - 1)
}

/// Text that an encoder may stumble over; long at times, but not in many rows at once.
fn note(dice: &mut Dice, rows: u64) -> String {
    const PIECES: [&str; 10] =
        ["plain", "ü ß", "\"quoted\"", "back\\slash", "tab\t", "line\n", "{\"a\":1}", "😀", "</script>", "O''Neill"];
    let mut note = (0..dice.within(0..=4)).map(|_| dice.pick(&PIECES)).collect::<Vec<_>>().join(" ");
    let long = match dice.within(0..=999) {
        0 if rows == 1 => 200_000,
        1..=9 if rows < 20 => 20_000,
        10..=99 => 500,
        _ => dice.within(0..=60),
    };
    note.extend((0..long).map(|_| char::from(b'a' + dice.within(0..=25) as u8)));
    if dice.percent(5) { "null".into() } else { format!("'{note}'") }
}
