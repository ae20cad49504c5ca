//! What the tests share: private servers, a faulty network, and patience with a limit.

pub mod eventually;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod redis;
