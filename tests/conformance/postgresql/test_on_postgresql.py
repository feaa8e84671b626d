"""What leans most on the database, once more on PostgreSQL."""

from tests.conformance.test_connections import (  # noqa: F401
    test_a_disconnect_by_the_peer_ends_subscriptions_and_deliveries,
    test_a_repeated_request_gets_the_stored_answer,
    test_an_accepted_replacement_of_the_peer_ends_the_old_connection,
    test_crossing_the_request_of_the_smaller_peer_stands,
    test_events_are_held_while_suspended_and_flow_after,
    test_what_an_operator_accepts_is_active_on_both_sides,
    test_when_both_suspended_both_must_resume,
)
from tests.conformance.test_controls import (  # noqa: F401
    test_a_used_number_is_a_sequence_conflict_that_tells_the_last,
    test_another_message_under_a_used_id_is_a_conflict,
    test_the_same_control_sent_at_once_by_many_is_answered_alike,
)
from tests.conformance.test_delivery import (  # noqa: F401
    test_a_burst_arrives_once_in_order_and_within_the_limits,
    test_a_late_ack_turns_even_a_dead_letter_into_delivered,
    test_a_refused_batch_is_halved,
    test_a_sequence_conflict_starts_a_new_epoch_and_renumbers,
    test_an_entry_refused_for_now_goes_again_under_its_number,
)
from tests.conformance.test_events import (  # noqa: F401
    test_a_bad_event_in_a_good_envelope_is_a_rejected_entry,
    test_a_duplicate_under_a_new_number_fills_it,
    test_a_gap_closes_its_numbers,
    test_another_event_under_a_used_number_is_a_sequence_conflict,
    test_contiguous_waits_for_a_hole_and_passes_it_when_it_is_filled,
    test_order_is_kept,
    test_other_content_under_a_used_id_is_a_conflict,
    test_the_strangest_legal_json_is_taken,
)
from tests.conformance.test_keys import test_a_missed_change_is_made_good_by_a_chain_of_vouches  # noqa: F401
from tests.conformance.test_subscriptions import (  # noqa: F401
    test_a_short_lease_is_renewed_at_half_life,
    test_only_what_is_granted_is_sent,
    test_unsent_deliveries_are_withdrawn_with_the_subscription,
)
from tests.conformance.test_table import test_the_table_of_an_accepted_connection  # noqa: F401
