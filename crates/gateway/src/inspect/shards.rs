//! Questions to every shard of a gateway.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot};

use super::Refused;
use crate::{
    hub::Hub,
    shard::{Arrival, Look},
};

/// A shard that is as busy as that has no time for questions.
const PATIENCE: Duration = Duration::from_secs(5);

/// Every shard, by its channel. Cheap to clone.
#[derive(Clone)]
pub struct Shards(Arc<[mpsc::UnboundedSender<Arrival>]>);

impl Shards {
    /// These.
    pub fn new(arrivals: &[mpsc::UnboundedSender<Arrival>]) -> Self {
        Self(arrivals.into())
    }

    /// Asks each shard, which is told its number: again and again until it has an answer, and in between it
    /// does its work.
    pub(super) async fn ask<T, F>(&self, question: impl Fn(usize) -> F) -> Result<Vec<T>, Refused>
    where
        T: Send + 'static,
        F: FnMut(&Hub) -> Option<T> + Send + 'static,
    {
        let mut waiting = Vec::with_capacity(self.0.len());
        for (shard, arrivals) in self.0.iter().enumerate() {
            waiting.push(ask_one(arrivals, question(shard))?);
        }
        let mut answers = Vec::with_capacity(waiting.len());
        for answered in waiting {
            answers.push(in_time(answered).await?);
        }
        Ok(answers)
    }

    /// Asks one shard; `None` if there is no such.
    pub(super) async fn ask_one<T, F>(&self, shard: usize, question: F) -> Result<Option<T>, Refused>
    where
        T: Send + 'static,
        F: FnMut(&Hub) -> Option<T> + Send + 'static,
    {
        let Some(arrivals) = self.0.get(shard) else { return Ok(None) };
        in_time(ask_one(arrivals, question)?).await.map(Some)
    }
}

fn ask_one<T, F>(arrivals: &mpsc::UnboundedSender<Arrival>, mut question: F) -> Result<oneshot::Receiver<T>, Refused>
where
    T: Send + 'static,
    F: FnMut(&Hub) -> Option<T> + Send + 'static,
{
    let (answer, answered) = oneshot::channel();
    let mut answer = Some(answer);
    let look: Look = Box::new(move |hub| {
        // Who has left needs no answer.
        if answer.as_ref().is_none_or(oneshot::Sender::is_closed) {
            return false;
        }
        let Some(found) = question(hub) else { return true };
        if let Some(answer) = answer.take() {
            drop(answer.send(found));
        }
        false
    });
    arrivals.send(Arrival::Look(look)).map_err(|_| Refused::Busy("this gateway is stopping"))?;
    Ok(answered)
}

async fn in_time<T>(answered: oneshot::Receiver<T>) -> Result<T, Refused> {
    match tokio::time::timeout(PATIENCE, answered).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(Refused::Busy("this gateway is stopping")),
        Err(_) => Err(Refused::Busy("a shard of this gateway is too busy to be asked: it has no core to run on")),
    }
}
