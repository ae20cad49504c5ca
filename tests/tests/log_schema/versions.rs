//! The same on the versions that the system does not have.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::sync::Arc;

use e2e::postgres::PostgresServer;

use crate::{Stage, stage::SETTINGS};

macro_rules! all {
    ($($module:ident: $($promise:ident),*;)*) => {
        async fn all(server: Arc<PostgresServer>) {
            $($(
                let promise = crate::$module::$promise(Stage::on(server.clone()).await);
                if let Err(failed) = tokio::spawn(promise).await {
                    panic!("{} on port {}: {failed}", stringify!($promise), server.port());
                }
            )*)*
        }
    };
}

crate::promises!(all);

async fn version(major: u32) {
    all(Arc::new(PostgresServer::start_version(major, SETTINGS).await.unwrap())).await;
}

#[tokio::test]
async fn all_holds_on_postgresql_14() {
    version(14).await;
}

#[tokio::test]
async fn all_holds_on_postgresql_16() {
    version(16).await;
}

#[tokio::test]
async fn all_holds_on_postgresql_17() {
    version(17).await;
}

#[tokio::test]
async fn all_holds_on_postgresql_18() {
    version(18).await;
}
