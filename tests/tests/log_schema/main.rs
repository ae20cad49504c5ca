//! The schema `rowcast`: what its triggers log, whom it serves, and what it refuses.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod each;
mod installation;
mod options;
mod order;
mod partitions;
mod pausing;
mod refusals;
mod rights;
mod ring;
mod stage;
mod statements;
mod tool;
mod types;
mod versions;

pub use stage::{Stage, delete, insert, truncate, update};

/// What is promised on every version of PostgreSQL.
#[macro_export]
macro_rules! promises {
    ($each:ident) => {
        $each! {
            each: by_the_statement_the_same_is_logged, columns_may_have_any_name, many_rows_after_one_are_as_quick,
                only_what_is_too_large_is_looked_at, old_and_new_row_of_many_belong_together, a_large_row_among_small_ones_is_cut_alone_and_keeps_its_place,
                a_row_that_a_statement_changes_twice_ends_as_it_is, nothing_of_a_large_statement_stays_open,
                a_watch_changes_from_rows_to_statements_and_back, where_statements_would_come_out_of_order_they_are_refused;
            installation: it_can_be_installed_twice, psql_installs_it, uninstalling_leaves_no_trace, an_upgrade_writes_the_functions_anew,
                a_log_of_version_1_goes_on_after_the_upgrade,
                a_newer_schema_is_not_touched, everything_has_a_comment, another_role_does_not_install_over_it;
            options: only_the_ops_asked_for_are_captured, a_column_that_is_left_out_stays_out,
                a_column_that_is_left_out_and_made_anew_stays_out, migrations_never_make_writes_fail,
                of_the_old_row_is_kept_what_was_asked_for,
                where_a_column_of_the_key_was_renamed_the_whole_old_row_is_kept, a_change_that_is_too_large_goes_without_its_largest_values,
                watch_again_changes_the_options, a_renamed_table_keeps_its_topic, unwatch_takes_name_and_topic,
                a_table_that_was_dropped_can_be_watched_anew, who_missed_changes_of_a_table_is_told;
            order: what_a_trigger_does_comes_after_what_fired_it, a_row_that_is_changed_before_its_turn_is_one_change,
                a_row_that_is_deleted_before_its_turn_never_was, a_before_trigger_that_changes_earlier_rows_is_in_order,
                random_triggers_end_in_what_the_table_has, rows_locked_by_foreign_keys_are_logged_once,
                a_place_that_is_used_again_is_another_row,
                a_place_and_a_number_that_are_used_again_are_another_row, a_truncate_does_not_part_changes_of_other_tables;
            partitions: the_topic_is_the_root, a_move_is_a_delete_and_an_insert, truncate_names_the_partition,
                truncate_of_a_detached_partition_is_not_of_the_topic, a_detached_partition_is_captured_where_it_is_watched_next,
                a_root_that_is_attached_is_truncated_as_a_whole, truncate_is_seen_by_who_began_before_the_watch,
                new_partitions_are_watched, partitions_of_partitions_are_watched;
            pausing: paused_writes_nothing_and_resume_begins_a_new_feed, resume_waits_for_who_wrote_uncaptured,
                the_log_is_discarded_only_while_paused, status_tells_how_the_log_is;
            refusals: what_cannot_be_watched_is_refused_with_the_way_out, wrong_options_are_refused_with_what_would_be_right;
            rights: strangers_neither_read_nor_forge, default_privileges_open_nothing, default_privileges_open_nothing_later,
                a_role_without_privileges_installs_and_watches,
                writers_need_no_right_to_the_log, lastval_fails_and_what_to_use_instead_does_not,
                the_listener_can_do_what_it_must_and_nothing_else, the_search_path_of_the_writer_is_not_trusted,
                a_publication_of_all_tables_stops_nobody;
            ring: a_leaf_is_emptied_when_nobody_needs_it, what_is_prepared_keeps_its_leaf, the_ring_turns_into_an_empty_leaf_alone,
                changes_go_to_the_leaf_of_their_generation, a_feed_begins_with_an_empty_tick,
                a_feed_has_what_its_own_transaction_changes_later, a_feed_that_begins_while_others_write_keeps_the_log,
                what_another_cluster_numbered_goes_without_waiting, a_feed_begins_while_the_leader_makes_a_tick;
            statements: a_replica_role_silences_nothing, copy_is_inserts, an_upsert_is_an_insert_or_an_update, a_merge_is_its_parts,
                a_cascade_comes_after_its_cause, a_truncate_is_one_change, a_changed_key_is_one_update, a_savepoint_takes_its_changes_with_it,
                a_prepared_transaction_is_logged_when_it_commits, the_doorbell_rings_only_for_a_listener_that_sleeps,
                changes_of_one_transaction_are_in_order;
            types: every_type_comes_out_as_json, settings_of_the_writer_count, a_row_of_a_megabyte_comes_out_whole, generated_columns_come_out_as_they_are_or_not_at_all,
                names_are_what_they_are, without_a_key_whole_rows_come_out, the_key_is_in_its_own_order;
        }
    };
}

macro_rules! here {
    ($($module:ident: $($promise:ident),*;)*) => {
        $($(
            #[tokio::test]
            async fn $promise() {
                $module::$promise(Stage::new().await).await;
            }
        )*)*
    };
}

promises!(here);
