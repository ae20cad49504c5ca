use std::{
    future::poll_fn,
    sync::{Arc, Mutex, PoisonError},
};

use e2e::{
    eventually::eventually,
    site::{SOON, Site},
};
use tokio_postgres::{AsyncMessage, Client, NoTls};

/// What PostgreSQL itself notified on a channel: the measure for what arrives.
pub struct Notified {
    payloads: Arc<Mutex<Vec<String>>>,
    _client: Client,
}

impl Notified {
    /// From now on.
    pub async fn on(site: &Site, channel: &str) -> Self {
        let (client, mut connection) = tokio_postgres::connect(&site.database_url(), NoTls).await.unwrap();
        let payloads = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&payloads);
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notification(notification) = message {
                    into.lock().unwrap_or_else(PoisonError::into_inner).push(notification.payload().to_owned());
                }
            }
        });
        client.batch_execute(&format!("listen {channel}")).await.unwrap();
        Self { payloads, _client: client }
    }

    /// The first, once there are as many, which are then all.
    pub async fn payloads(&self, count: usize) -> Vec<String> {
        eventually("all is notified", SOON, async || {
            let payloads = self.payloads.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if payloads.len() >= count { Ok(payloads) } else { Err(payloads) }
        })
        .await
    }
}
