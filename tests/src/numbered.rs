//! The rows that [`crate::writer::Writer`] writes: of the recipe's table of sensors, with a number
//! as the value.

/// Where their changes go.
pub const TOPIC: &str = "sensor_updates";
/// The plain endpoint of that topic.
pub const PATH: &str = "/ws/sensors/";
/// Writes one of them.
pub const INSERT: &str = "insert into sensor_readings(sensor_id, value) values ('sensor1', $1)";

/// The number in a payload, or in a frame with one.
pub fn number(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once(r#""value" : "#)?;
    rest[..rest.find(|c: char| !c.is_ascii_digit())?].parse().ok()
}
