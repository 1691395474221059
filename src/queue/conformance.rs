//! The suite that every engine must pass: the sentences of the contract as tests, over handles
//! that a [`Bench`] opens. An engine calls [`conformance_suite!`] with its bench, or `None` where it cannot
//! be had.

pub(in crate::queue) mod lanes;
pub(in crate::queue) mod loading;
pub(in crate::queue) mod numbers;
pub(in crate::queue) mod publishing;
pub(in crate::queue) mod rescuing;
pub(in crate::queue) mod working;
mod world;

pub(super) use world::Bench;
pub(crate) use world::{World, job as new_job, settlement};

/// One `#[tokio::test]` for each sentence.
macro_rules! conformance_suite {
    ($bench:expr; $($area:ident: $($test:ident)+;)+) => {$($(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            if let Some(bench) = $bench {
                super::super::conformance::$area::$test(&bench).await;
            }
        }
    )+)+};
    ($bench:expr) => {
        $crate::queue::conformance::conformance_suite! { $bench;
            loading:
                loading_twice_changes_nothing
                a_load_says_what_it_will_do_and_does_it
                a_changed_job_is_made_again_and_says_in_which_field
                a_changed_job_that_succeeded_is_kept_when_asked
                a_job_that_left_is_cancelled_and_comes_back
                what_a_person_cancelled_stays_so_until_it_changes
                a_running_job_that_changed_is_made_again_when_its_attempt_ends
                a_running_job_that_left_is_cancelled_when_its_attempt_ends
                a_succeeded_job_that_left_stays_succeeded_and_sorts_last
                everything_about_a_job_survives_the_queue
                a_failed_load_changes_nothing
                stamps_are_replaced;
            working:
                an_intent_is_on_disk_before_the_claim_returns
                a_stale_lease_changes_nothing
                a_settled_attempt_is_not_settled_again
                two_handles_never_claim_the_same_job
                lanes_and_permits_are_respected
                claims_come_by_losses_then_priority_then_order
                a_snoozed_job_waits_for_its_time
                a_clock_that_goes_back_strands_no_snoozed_job
                a_scope_hides_the_rest
                the_cap_stops_claims
                claims_that_come_at_once_are_dealt_out
                the_cap_is_passed_only_by_what_was_in_flight
                cancelling_reaches_a_running_job_by_its_heartbeat
                a_job_that_was_spared_goes_behind_the_untried
                retry_gives_fresh_allowances
                retry_makes_a_succeeded_job_again_only_by_name
                an_unknown_name_changes_nothing
                allowances_count_their_own_outcomes
                what_the_provider_is_to_blame_for_uses_up_no_allowance
                a_dropped_future_tears_nothing
                one_failure_does_not_undo_its_neighbours
                a_closed_queue_says_so;
            lanes:
                what_was_learned_about_a_lane_is_there_for_the_next_run
                lanes_are_shown_while_their_worker_lives
                a_lane_that_stands_in_takes_only_jobs_that_allow_it
                a_lane_serves_its_own_jobs_before_it_stands_in
                a_load_may_change_who_stands_in;
            publishing:
                a_job_succeeds_when_its_files_stand
                names_are_never_shared
                a_foreign_file_gets_a_planned_one_renamed
                a_new_revision_replaces_the_old_files
                only_a_new_name_moves_the_file
                a_renaming_that_was_begun_is_known_after_a_crash
                names_that_move_in_a_chain_come_in_order
                unpublishable_files_send_the_job_back;
            rescuing:
                a_lost_attempt_is_recorded_and_its_job_retried
                a_lost_attempt_can_be_held
                settled_answers_are_published_by_the_heir
                a_dead_worker_has_lost_everything
                a_machine_is_drained_once_and_for_all_its_workers
                a_worker_with_leases_does_not_retire
                how_long_a_worker_is_silent_is_told_by_the_clock_of_the_queue
                rescued_jobs_queue_behind_untried_ones
                a_job_that_was_lost_three_times_is_handed_out_alone
                two_losses_alone_fail_a_job_and_retry_forgives_it
                losses_in_company_never_fail_a_job
                with_hold_a_person_decides_on_poison_too;
            numbers:
                pages_show_every_job_once_and_in_order
                a_row_sums_over_all_attempts
                the_ledger_is_read_page_by_page
                the_counters_equal_a_recount_after_anything;
        }
    };
}
pub(in crate::queue) use conformance_suite;
