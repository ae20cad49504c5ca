//! What every bus promises. `contract!` makes a test of each promise, for one kind of bus.

mod begin;
mod broadcast;
mod follower;
mod history;
mod publish;
mod subscription;
mod words;

use bus::{Bus, Retention};

pub use self::{follower::Follower, words::*};

/// A bus to be tested, empty at the start.
pub trait Harness: Sized {
    async fn start(retention: Retention) -> Self;

    fn bus(&self) -> Bus;

    /// Loses all that the bus holds.
    async fn clear(&self);
}

pub mod promises {
    pub use super::{begin::*, broadcast::*, history::*, publish::*, subscription::*};
}

#[macro_export]
macro_rules! contract {
    ($harness:ty) => {
        $crate::contract! { $harness:
            // begin
            an_empty_bus_takes_any_feed
            a_feed_that_ends_where_the_term_begins_is_taken_over
            a_feed_that_ends_elsewhere_is_not_taken_over
            a_bus_that_is_older_than_what_can_be_brought_begins_further_on
            who_goes_on_begins_nothing_where_the_feed_is_gone
            a_higher_epoch_replaces_another_feed
            a_lower_epoch_is_refused
            two_feeds_of_one_epoch_do_not_replace_each_other
            begin_tells_all_that_subscribe
            begin_twice_is_the_same_as_once
            a_bus_that_was_emptied_takes_the_feed_up_again_from_a_base
            sources_are_apart
            // publish
            a_batch_that_continues_is_applied
            a_repeat_is_not_applied_twice
            a_batch_that_ends_later_but_begins_earlier_is_behind
            a_batch_after_a_hole_is_behind
            without_a_feed_all_batches_are_behind
            another_feed_and_another_epoch_are_in_conflict
            a_deposed_publisher_is_in_conflict
            a_watermark_counts_only_where_the_bus_ends
            a_batch_with_many_topics_is_one
            any_payload_and_any_topic_name_arrives
            // history
            one_order_over_all_topics
            a_history_begins_after_any_offset
            a_long_history_is_whole
            a_topic_without_changes_has_an_empty_history
            what_the_limit_of_bytes_drops_is_trimmed
            what_is_too_old_is_trimmed
            a_change_above_the_limit_of_bytes_is_sent_and_trimmed
            what_was_before_the_base_is_trimmed
            a_bus_that_ends_earlier_is_not_ready
            another_feed_is_told
            a_history_is_read_in_pieces_without_a_hole
            a_piece_of_what_is_trimmed_is_refused_and_one_behind_it_is_not
            rows_of_several_mib_are_sent_and_kept
            the_head_tells_catalogue_and_tails
            // subscription
            a_subscriber_gets_a_gap_first_and_then_batches
            a_subscriber_without_a_position_gets_gaps
            a_batch_that_the_position_has_is_left_out
            a_hole_before_a_batch_is_a_gap
            a_subscriber_that_lags_is_told
            all_subscribers_get_all_changes_once_and_in_order
            a_takeover_is_no_gap
            a_new_feed_is_a_gap
            subscriptions_are_counted
            // broadcast
            a_broadcast_reaches_everybody_who_is_there_once_and_in_order
            a_broadcast_to_nobody_is_sent_all_the_same
            who_takes_broadcasts_too_slowly_is_told_and_goes_on
            a_flood_of_broadcasts_costs_no_batch
        }
    };
    ($harness:ty: $($promise:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                contract::promises::$promise::<$harness>().await;
            }
        )*
    };
}
