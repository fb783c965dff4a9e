//! One suite for both buses: whatever a service may rely on, each case on memory (its clock paused) and on a real server.
//!
//! `scripts/test` starts the server. A case sees nothing of another one's streams and subjects.

mod core;
mod delivery;
mod differential;
mod fixture;
mod give_up;
mod memory_only;
mod observe;
mod replay;
mod retention;
mod topology;

/// Makes two tests of each case: `memory::<case>` and `nats::<case>`.
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
        deliveries_come_in_order_with_their_data
        headers_are_kept
        bodies_may_be_empty_or_large
        too_large_a_message_is_refused
        nonsense_subjects_are_refused
        acknowledged_does_not_come_again
        unconfirmed_acknowledgement_counts_too
        floor_waits_for_the_oldest
        unanswered_comes_again_after_the_ack_wait
        retry_waits_for_its_delay
        retry_of_zero_comes_at_once
        redeliveries_come_before_new_messages
        terminated_never_comes_again
        in_progress_begins_the_ack_wait_anew
        acknowledgement_of_an_older_delivery_counts
        second_answer_changes_nothing
        unanswered_messages_are_bounded
        waiting_fetch_wakes_when_the_bound_has_room
        redelivery_passes_at_the_bound
        waiting_fetch_wakes_when_a_message_comes
        fetch_of_nothing_ends_after_its_wait
        fetch_takes_no_more_than_asked
        two_pullers_share_the_work
        two_waiting_pullers_both_get_work
        closing_a_puller_puts_back_what_it_had
        filter_reads_its_subject_only
        back_off_governs_the_ack_wait_and_no_retry
        consumer_that_was_away_gets_everything
        consumers_do_not_disturb_each_other
        a_thousand_messages_reach_both_consumers_in_order
        each_publishers_order_is_kept
        new_ack_wait_counts_for_what_is_in_flight;
    give_up:
        exhausted_stays_on_an_interest_stream
        exhausted_stays_on_a_work_queue
        exhausted_stays_on_a_limits_stream
        retry_of_the_last_delivery_gives_up_too
        last_delivery_is_given_up_by_the_next_pull
        only_delivery_is_given_up_by_itself
        acknowledged_last_delivery_is_not_given_up
        advisory_tells_of_exhausted_deliveries_once
        advisory_is_captured_by_a_stream
        given_up_message_is_released_by_its_ack_subject
        release_of_nothing_says_so
        late_answer_to_a_given_up_delivery_releases_it
        given_up_by_one_stays_until_it_is_released_for_that_one
        released_message_stays_for_who_has_not_had_it
        raising_the_limit_does_not_bring_it_back
        new_consumer_sees_what_another_gave_up;
    retention:
        interest_of_one_ends_with_its_ack
        interest_of_two_ends_with_both
        interest_of_nobody_stores_nothing
        late_consumer_sees_what_is_still_stored
        termination_releases_for_one_of_two
        deleted_consumer_gives_up_its_interest
        narrower_filter_gives_up_its_interest
        work_queue_gives_each_message_once
        work_queue_refuses_overlapping_consumers
        work_queue_survives_its_consumer
        limits_stream_keeps_what_is_acknowledged
        old_messages_are_forgotten
        bytes_are_counted_alike
        full_stream_refuses_what_is_new
        refused_message_may_come_again_with_its_id
        full_stream_may_drop_what_is_old
        duplicate_is_acknowledged_and_not_stored
        messages_without_an_id_are_no_duplicates
        same_id_on_two_streams_is_no_duplicate
        id_is_remembered_after_the_message_is_gone
        id_is_forgotten_after_the_window
        longer_window_brings_no_id_back
        late_answer_takes_nothing_from_a_work_queue_s_next_consumer;
    observe:
        state_has_the_same_infos_times_and_differences_as_single_calls
        state_names_what_is_missing_and_sees_it_recreated;
    topology:
        apply_says_what_it_made_and_is_quiet_when_repeated
        compare_changes_nothing
        what_was_made_anew_has_a_later_time
        late_answer_takes_nothing_from_a_stream_that_was_made_anew
        differences_are_told_and_made_right
        setting_that_is_not_named_stays
        cursor_survives_an_update
        changed_filter_reads_on_from_the_cursor
        delivered_is_what_was_handed_out
        filter_may_be_empty
        impossible_topologies_are_refused
        consumer_without_its_stream_is_not_found
        deleted_consumer_is_not_found_and_can_be_made_anew
        waiting_fetch_hears_that_its_consumer_is_deleted
        deleted_stream_is_not_found_and_can_be_made_anew
        what_does_not_exist_is_not_found
        the_systems_topology_can_be_applied
        many_processes_apply_at_once
        restart_is_healed_by_applying_again;
    replay:
        replay_begins_at_a_sequence
        replay_begins_at_a_time
        replay_reads_what_its_filter_covers
        replay_follows_what_is_new
        replay_from_beyond_the_end_reads_what_is_new
        replay_leaves_consumers_as_they_are
        replay_of_a_thousand_is_in_order
        replay_of_no_stream_is_not_found
        replay_from_the_far_future_is_empty
        replay_in_batches_knows_its_end
        a_deleted_message_is_gone_for_everybody
        stored_message_is_as_it_was_published
        newest_message_of_a_subject_is_found
        a_deleted_message_is_nobodys_any_more
        the_streams_clock_is_that_of_what_it_stores;
    core:
        notice_reaches_everybody_who_is_subscribed
        notice_to_nobody_is_no_error
        concurrent_subscribers_each_get_all_in_order
        queue_group_gets_each_message_once
        member_that_left_gets_nothing
        request_gets_its_answer
        concurrent_requests_get_their_own_answers
        request_to_nobody_fails_at_once
        answer_to_no_delivery_finds_nobody
        request_without_an_answer_ends_after_its_wait
        subscriber_gets_a_copy_of_what_a_stream_stores
        stream_stores_a_notice_on_its_subject
        stream_answers_a_request_on_its_subject
        check_finds_nothing_wrong;
}
