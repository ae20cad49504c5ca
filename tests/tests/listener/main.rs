//! The listener as users run it: real processes, a real PostgreSQL, a real Redis.

#[cfg(test)]
mod delivery;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod leadership;
#[cfg(test)]
mod settings;
#[cfg(test)]
mod stage;
