//! The watched tables. All have a number and a note beside their key, so that one generator of
//! statements serves them all; a key is made from a number `g`.

/// How many keys a table may have; rows come and go among them.
pub const KEYS: u64 = 2_000;

/// A watched table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// As SQL names it.
    pub sql: &'static str,
    /// As clients name it.
    pub topic: &'static str,
    /// Its key columns, as SQL names them.
    pub key: &'static str,
    /// The key of number `g`.
    pub key_of: &'static str,
    /// Options of `rowcast.watch` after the table.
    pub watched: &'static str,
    /// What an update or delete tells of the old row.
    pub old: Old,
    /// What makes it.
    pub ddl: &'static str,
}

/// What an update or delete tells of the old row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Old {
    /// All of it.
    Full,
    /// Its key.
    Key,
}

/// Position in [`TABLES`].
pub type TableId = u8;

/// The table of the probes, which writers leave alone.
pub const PROBES: TableId = 6;
/// The tables that writers write.
pub const WRITTEN: [TableId; 6] = [0, 1, 2, 3, 4, 5];

/// All watched tables.
pub const TABLES: [Table; 7] = [
    Table {
        sql: "numbers",
        topic: "public.numbers",
        key: "id",
        key_of: "g",
        watched: "",
        old: Old::Full,
        ddl: "create table numbers (id int primary key, n bigint not null, note text, amount numeric default 12.50,
                wide bigint default 9007199254740993, flag boolean, at timestamptz default now(),
                doc jsonb default '{\"a\": [1, null, \"ü\"]}', raw bytea default '\\x00ff', gone text);
              alter table numbers drop column gone",
    },
    // A trigger of its user writes a new row again: its change must come out after the one that fired it.
    Table {
        sql: "words",
        topic: "public.words",
        key: "word",
        key_of: "'wört \"' || g",
        watched: ", max_change_bytes => 16384",
        old: Old::Full,
        ddl: "create table words (word text primary key, n bigint not null, note text, touched int not null default 0);
              create function touch() returns trigger language plpgsql as $$ begin
                update words set touched = touched + 1 where word = new.word; return null; end $$;
              create trigger touch after insert on words for each row when (new.n % 3 = 0) execute function touch()",
    },
    Table {
        sql: "\"Paare ä\"",
        topic: "public.Paare ä",
        key: "\"left\", right_id",
        key_of: "g % 20, 'r' || g / 20",
        watched: "",
        old: Old::Full,
        ddl: "create table \"Paare ä\" (n bigint not null, note text, \"left\" int, right_id text, primary key (\"left\", right_id))",
    },
    Table {
        sql: "parts",
        topic: "public.parts",
        key: "region, id",
        key_of: "(array['north', 'south', 'east', 'west'])[1 + g % 4], g / 4",
        watched: "",
        old: Old::Full,
        ddl: "create table parts (region text, id int, n bigint not null, note text, primary key (region, id)) partition by list (region);
              create table parts_north partition of parts for values in ('north');
              create table parts_south partition of parts for values in ('south');
              create table parts_rest partition of parts default",
    },
    Table {
        sql: "lean",
        topic: "public.lean",
        key: "id",
        key_of: "g",
        watched: ", old => 'key'",
        old: Old::Key,
        ddl: "create table lean (id int primary key, n bigint not null, note text)",
    },
    // Captured by the statement.
    Table {
        sql: "stock",
        topic: "public.stock",
        key: "id",
        key_of: "g",
        watched: ", each => 'statement'",
        old: Old::Full,
        ddl: "create table stock (id int primary key, n bigint not null, note text, price numeric(12, 2) default 1.50)",
    },
    Table {
        sql: "probes",
        topic: "public.probes",
        key: "id",
        key_of: "g",
        watched: ", old => 'key'",
        old: Old::Key,
        ddl: "create table probes (id bigint primary key)",
    },
];

/// Which tables, a bit each.
pub type Tables = u8;

/// The table of a topic.
pub fn table_of(topic: &str) -> Option<TableId> {
    TABLES.iter().position(|table| table.topic == topic).map(|id| id as TableId)
}

/// Whether a partition of [`TABLES`] has the row with this key: `north`, of `["north",5]`.
pub fn partition_has(partition: &str, key: &str) -> bool {
    let named = |name: &str| key.starts_with(&format!("\"{name}\""));
    match partition {
        "public.parts_north" => named("north"),
        "public.parts_south" => named("south"),
        _ => !named("north") && !named("south"),
    }
}
