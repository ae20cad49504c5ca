//! The server side of RFC 6455, as much of it as a server that pushes text needs: frames are built
//! once and shared by all who get them, and reading keeps no buffer while nothing is half-read.

mod decoder;
mod frame;
mod handshake;

pub use decoder::{Decoder, Incoming, Violation};
pub use frame::{binary, close, ping, pong, text, text_of, write_text};
pub use handshake::{Handshake, accept_key};
