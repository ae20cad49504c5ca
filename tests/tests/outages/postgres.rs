use e2e::{postgres::Shutdown, site::Site};

use crate::trial::Trial;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_connected_when_postgresql_restarted_or_crashed_is_told_and_goes_on() {
    let mut trial = Trial::on(Site::start().await.unwrap()).await;
    for (how, told) in [(Shutdown::Fast, 1), (Shutdown::Immediate, 2)] {
        trial.site.postgres.restart(how).await.unwrap();
        trial.flows_again().await;
        trial.rows_are_written(20).await;
        let resets = trial.natives[0].seen().resets;
        assert_eq!(resets.len(), told, "{resets:?}");
    }
    let outcome = trial.end().await;
    outcome.everybody_was_told_of_new_feeds(2);
}
