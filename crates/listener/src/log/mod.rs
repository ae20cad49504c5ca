//! The durable source: what `rowcast.watch` writes to the log, in the writers' own transactions.
//!
//! The listener that holds the log's lock looks at it ([`capture`]), makes a [`tick`] of what is new,
//! and reads the tick's changes ([`stored`]) into batches ([`press`]). These wait on a line bounded by
//! bytes ([`out`]) for the bus ([`publishing`]). Offsets follow from the ticks, so whatever the bus
//! loses comes out of the log again, under the same feed and offsets ([`start`]). [`doorbell`] says
//! when to look, [`ring`] throws away what is old.

mod capture;
mod doorbell;
mod life;
mod out;
mod press;
mod publishing;
mod ring;
mod session;
mod start;
mod stored;
mod tick;

pub(crate) use life::LogLife;
pub use ring::LogRetention;
