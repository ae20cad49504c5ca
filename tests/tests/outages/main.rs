//! Parts die, vanish and come back, while an application goes on writing and clients go on
//! reading. Nobody helps but by starting the part that died.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod gateways;
mod listener;
mod postgres;
mod redis;
mod trial;
