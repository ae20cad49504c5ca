//! Who is let in, against a real identity provider and a real application: axum servers that the
//! tests can break.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod application;
mod issuer;
mod jwks;
mod logged;
mod settings;
mod tokens;
