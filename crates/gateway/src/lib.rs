//! The gateway: subscribes to the bus and serves clients.
//!
//! Data flows one way: bus → [`feed`] → [`hub`] → socket. A [`feed`] turns what the bus delivers
//! into one gapless sequence; a [`shard`] is a thread with its own connections; its [`hub`] knows
//! which of them wants what; a [`session`] is the life of one connection; [`ws`] is the framing.
//! [`http`] is the front door, [`access`] decides who comes in, [`ingest`] writes rows. Who cannot speak
//! WebSocket gets the same changes as events (`sse`), or asks for them (`changes`); `realtime` is what
//! Supabase's client speaks.

#![warn(missing_docs)]

pub mod access;
mod body;
mod changes;
mod conflation;
mod connection;
pub mod door;
pub mod encode;
pub mod feed;
mod front;
mod gateway;
pub mod historian;
mod hit;
pub mod http;
pub mod hub;
pub mod ingest;
mod inspect;
pub mod limits;
pub mod metrics;
mod outbox;
mod query;
pub mod ready;
mod realtime;
mod recent;
mod ring;
mod row_key;
pub mod session;
pub mod settings;
pub mod shard;
mod socket;
mod sse;
mod web;
pub mod ws;

pub use gateway::Gateway;
pub use settings::Settings;
