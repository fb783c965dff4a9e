//! One suite for both buses: whatever a service may rely on. Each case runs on the memory bus, with a paused clock, and on a real
//! server, which `scripts/test` starts. No two cases share a stream or a subject.

mod core;
mod delivery;
mod differential;
mod fixture;
mod max_deliver;
mod memory_only;
mod nats_only;
mod observe;
mod replay;
mod retention;
mod topology;

/// Two tests of each case: `memory::<case>` and `nats::<case>`.
macro_rules! suite {
    ($($noun:ident: $($case:ident)+;)+) => {
        mod memory {$($(
            #[tokio::test(start_paused = true)]
            async fn $case() -> anyhow::Result<()> {
                crate::fixture::on_memory(stringify!($case), crate::$noun::$case).await
            }
        )+)+}

        mod nats {$($(
            #[tokio::test]
            async fn $case() -> anyhow::Result<()> {
                crate::fixture::on_nats(stringify!($case), crate::$noun::$case).await
            }
        )+)+}
    };
}

suite! {
    delivery:
        deliveries_come_in_stream_order_with_their_metadata
        headers_are_delivered_as_published
        bodies_may_be_empty_or_large
        message_above_the_size_limit_is_refused
        invalid_subjects_are_refused
        acknowledged_message_is_not_redelivered
        ack_without_confirmation_counts_too
        ack_floor_waits_for_the_oldest_pending_message
        unacknowledged_message_is_redelivered_after_the_ack_wait
        retry_redelivers_after_its_delay
        retry_without_delay_redelivers_at_once
        redeliveries_come_before_new_messages
        terminated_message_is_not_redelivered
        in_progress_restarts_the_ack_wait
        ack_of_an_older_delivery_counts
        second_acknowledgement_changes_nothing
        max_ack_pending_pauses_delivery
        waiting_fetch_wakes_when_an_ack_makes_room
        redelivery_is_possible_at_max_ack_pending
        waiting_fetch_wakes_when_a_message_comes
        fetch_without_messages_ends_after_its_wait
        fetch_returns_at_most_max_messages
        two_pullers_share_the_work
        two_waiting_pullers_both_get_work
        closing_a_puller_has_its_unfetched_messages_redelivered
        filter_selects_by_subject
        backoff_sets_the_ack_wait_and_not_the_retry_delay
        consumer_without_a_puller_misses_nothing
        consumers_are_independent
        a_thousand_messages_reach_both_consumers_in_order
        order_of_each_publisher_is_preserved
        new_ack_wait_applies_to_pending_messages;
    max_deliver:
        given_up_message_stays_on_an_interest_stream
        given_up_message_stays_on_a_work_queue
        given_up_message_stays_on_a_limits_stream
        retry_of_the_last_delivery_gives_the_message_up
        message_is_given_up_at_the_next_pull
        with_max_deliver_1_a_message_is_given_up_without_a_pull
        acknowledged_last_delivery_is_not_given_up
        max_deliveries_advisory_is_sent_once
        stream_captures_advisories
        release_removes_a_given_up_message
        release_of_an_undelivered_message_fails
        late_termination_removes_a_given_up_message
        message_given_up_by_one_consumer_stays_until_released_for_it
        released_message_stays_for_other_consumers
        raising_max_deliver_does_not_redeliver
        new_consumer_reads_a_message_that_another_gave_up;
    retention:
        interest_stream_removes_a_message_at_the_ack
        interest_stream_removes_a_message_after_both_acks
        interest_stream_without_interest_stores_nothing
        late_consumer_reads_what_is_still_stored
        termination_ends_the_interest_of_one_consumer
        deleting_a_consumer_ends_its_interest
        narrowing_a_filter_ends_its_interest
        work_queue_delivers_each_message_once
        work_queue_refuses_overlapping_consumers
        work_queue_retains_messages_without_a_consumer
        limits_stream_retains_acknowledged_messages
        messages_beyond_the_maximum_age_are_removed
        bytes_are_counted_as_the_server_does
        full_stream_refuses_new_messages
        refused_message_is_stored_when_republished
        full_stream_with_discard_old_removes_the_oldest
        duplicate_is_acknowledged_and_not_stored
        messages_without_an_id_are_no_duplicates
        same_id_on_two_streams_is_no_duplicate
        republish_of_a_removed_message_is_a_duplicate
        republish_after_the_duplicate_window_is_stored
        longer_window_does_not_restore_expired_ids
        late_ack_removes_nothing_from_the_next_consumer_of_a_work_queue;
    observe:
        state_has_the_same_infos_times_and_differences_as_single_calls
        state_names_what_is_missing_and_sees_it_recreated;
    topology:
        apply_reports_what_it_created_and_nothing_when_repeated
        a_consumer_is_made_again_from_a_time_on
        compare_changes_nothing
        recreated_stream_or_consumer_has_a_later_creation_time
        ack_of_a_lost_stream_removes_nothing_from_the_recreated_one
        apply_reports_and_corrects_differences
        raised_limit_stays
        unnamed_setting_stays
        update_preserves_the_cursor
        changed_filter_continues_at_the_cursor
        delivered_is_the_last_sequence_delivered
        filter_may_be_empty
        invalid_topologies_are_refused
        consumer_without_its_stream_is_not_found
        deleted_consumer_is_not_found_and_can_be_recreated
        waiting_fetch_fails_when_its_consumer_is_deleted
        deleted_stream_is_not_found_and_can_be_recreated
        operations_on_missing_things_are_not_found
        the_systems_topology_can_be_applied
        many_processes_may_apply_at_once
        apply_after_a_restart_recreates_memory_streams;
    replay:
        replay_begins_at_a_sequence
        replay_begins_at_a_time
        replay_reads_what_its_filter_matches
        replay_follows_new_messages
        replay_from_beyond_the_end_reads_new_messages
        replay_does_not_touch_consumers
        replay_of_a_thousand_is_in_order
        replay_of_a_missing_stream_is_not_found
        replay_from_the_far_future_is_empty
        replay_in_batches_reports_its_end
        deleted_message_is_gone_for_every_reader
        stored_message_is_as_published
        newest_message_of_a_subject_is_found
        deleting_a_message_ends_all_interest_in_it
        server_time_is_the_clock_of_stored_at;
    core:
        core_message_reaches_every_subscriber
        core_message_without_subscribers_is_no_error
        concurrent_subscribers_each_get_all_in_order
        full_subscription_drops_the_newest_and_counts_each
        queue_group_gets_each_message_once
        dropped_subscription_gets_nothing
        request_gets_its_reply
        concurrent_requests_get_their_own_replies
        request_without_responders_fails_at_once
        ack_of_a_missing_consumer_has_no_responders
        request_without_a_reply_ends_after_its_wait
        request_to_all_gets_every_reply_until_it_is_quiet
        subscriber_gets_a_copy_of_a_published_message
        stream_stores_a_core_message_on_its_subject
        stream_acknowledges_a_request_on_its_subject
        check_succeeds_on_a_working_bus;
}
