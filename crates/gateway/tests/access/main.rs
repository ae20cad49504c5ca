//! Who is let in, against a real identity provider and a real application: axum servers that the
//! tests can break.

mod application;
mod issuer;
mod jwks;
mod logged;
mod settings;
mod tokens;
