//! The durable source: real listeners, a real PostgreSQL, a real Redis.

#[cfg(test)]
mod back_in_time;
#[cfg(test)]
mod doorbell;
#[cfg(test)]
mod leadership;
#[cfg(test)]
mod load;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod order;
#[cfg(test)]
mod plans;
#[cfg(test)]
mod recovery;
#[cfg(test)]
mod ring;
#[cfg(test)]
mod rss;
#[cfg(test)]
mod stage;
#[cfg(test)]
mod strangers;
#[cfg(test)]
mod truth;
#[cfg(test)]
mod watching;
