//! The example systems, carried in the binary: what `rowcast dev` shows where there is nothing else.

/// The settings that serve them all.
pub const CONFIG: &str = include_str!("../../../rowcast.toml");

/// Their tables and triggers; each can be run again.
pub const SQL: [&str; 7] = [
    include_str!("../../../sql/examples/violations_one_table.sql"),
    include_str!("../../../sql/examples/violations_one_channel.sql"),
    include_str!("../../../sql/examples/violations_three_channels.sql"),
    include_str!("../../../sql/examples/db_changes.sql"),
    include_str!("../../../sql/examples/sensors.sql"),
    include_str!("../../../sql/examples/watched_orders.sql"),
    include_str!("../../../sql/examples/watched_recipes.sql"),
];
