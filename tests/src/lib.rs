//! What the tests share: private servers, a faulty network, and patience with a limit.

pub mod browser;
pub mod clients;
pub mod dashboard;
pub mod events;
pub mod eventually;
pub mod files;
pub mod follower;
pub mod http;
pub mod ledger;
pub mod log;
pub mod nginx;
pub mod numbered;
pub mod ports;
pub mod postgres;
pub mod postgres_versions;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod site;
pub mod socket;
pub mod torture;
pub mod writer;
