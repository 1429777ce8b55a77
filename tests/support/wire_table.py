"""Which tests of HTTP/1.1 run again over other wires, and why the others do not: the one place that says it.

Every test of a file listed here that asks for `fastlb` or `module_fastlb` runs over the plain wire, in a process of its own, and over each
wire beside the file's name, in this process (in_process.py). A new test of such a file does so by itself. An entry of EXCEPT that names no
test is found by tests/unit/test_wire_table.py.
"""

from collections.abc import Mapping

from tests.support.wires import Wire

BOTH = (Wire.TLS, Wire.HTTP2)
FILES = {
    BOTH: """
        integration.test_access_log integration.test_algorithms integration.test_answers_without_a_body
        integration.test_expect_continue integration.test_forwarded_headers integration.test_hop_by_hop_fields
        integration.test_idle_cache integration.test_interim_responses integration.test_keep_alive integration.test_local_answers
        integration.test_mirror integration.test_nginx_targets integration.test_pipelining integration.test_replay
        integration.test_request_bodies integration.test_request_id integration.test_response_bodies integration.test_retries
        integration.test_route_actions integration.test_routes integration.test_sticky_cookies integration.test_sticky_tables
        integration.test_targets integration.test_trailers integration.test_until_close_responses integration.test_upgrade
        faults.test_client_that_leaves faults.test_data_and_end_together faults.test_early_and_extra_answers faults.test_hedges
        faults.test_in_flight faults.test_misbehaving_proxy faults.test_time_outs faults.test_truncation
        conformance.test_responses
    """,
    # Their subject is the text of HTTP/1.x, or where in it a read ends.
    (Wire.TLS,): """
        integration.test_cut_at_every_byte integration.test_http_1_0 integration.test_read_buffer_sizes conformance.test_limits
        conformance.test_request_framing conformance.test_request_heads
    """,
}

# Files of neither list: what only processes have (reloads, signals, the admin API, health checks, names, workers, resident memory), splice
# (which TLS cannot), and real clients, of which HTTP/2 has its own file.

EXCEPT: dict[str, tuple[tuple[Wire, ...], str]] = {
    "needs what only a process has, or a client of its own": (
        BOTH,
        """
        integration.test_access_log.test_after_sigusr1_lines_go_to_a_new_file_and_none_is_lost
        integration.test_access_log.test_a_log_that_cannot_be_opened_again_goes_on_to_where_it_went
        integration.test_access_log.test_standard_output_gets_whole_lines_from_all_workers
        integration.test_access_log.test_a_pipe_that_is_not_read_never_stalls_traffic
        integration.test_access_log.test_a_new_configuration_changes_the_logs
        integration.test_access_log.test_a_log_that_cannot_be_opened_leaves_everything_as_it_was
        integration.test_sticky_cookies.test_values_survive_reload_and_restart_with_the_key_of_the_state_directory
        integration.test_upgrade.test_sigquit_leaves_tunnels_their_time
        faults.test_in_flight.test_requests_of_a_killed_worker_are_counted_no_more
        faults.test_in_flight.test_cap_holds_while_workers_die
        faults.test_in_flight.test_cap_holds_over_a_hundred_deaths
        faults.test_in_flight.test_counts_are_right_while_a_dead_worker_cannot_be_settled
        integration.test_interim_responses.test_flood_of_interim_responses_to_a_client_that_does_not_read_is_bounded
        integration.test_mirror.test_stopping_does_not_wait_for_a_shadow
        integration.test_retries.test_name_that_does_not_resolve_does_not_stop_the_start
        integration.test_retries.test_names_are_resolved
        integration.test_pipelining.test_deep_pipeline_is_read_no_faster_than_it_is_answered
        integration.test_sticky_cookies.test_unprivileged_workers_use_a_key_that_only_root_can_read
        integration.test_sticky_cookies.test_reload_that_needs_a_key_which_cannot_be_made_changes_nothing
        integration.test_sticky_tables.test_session_survives_reload_and_the_death_of_a_worker
        integration.test_sticky_tables.test_only_the_prefix_of_an_address_counts
        faults.test_misbehaving_proxy.test_either_side_stalls_anywhere
        """,
    ),
    "fills the kernel's buffers byte by byte, which takes seconds, and is about the relay alone": (
        BOTH,
        "faults.test_time_outs.test_client_that_stops_reading_is_not_saved_by_a_backend_that_trickles",
    ),
    "is about splice, which TLS cannot": (BOTH, "faults.test_truncation.test_cut_of_a_large_answer_through_splice_is_seen"),
    "says that the scheme is http": (
        BOTH,
        """
        integration.test_route_actions.test_redirect_leads_where_its_template_says
        integration.test_sticky_cookies.test_attributes_are_those_of_the_configuration
        integration.test_sticky_cookies.test_secure_is_automatic_behind_a_trusted_proxy_that_speaks_tls
        """,
    ),
    "is about what HTTP/2 has no word for: versions, spelling, fields of the connection, its end": (
        (Wire.HTTP2,),
        """
        integration.test_access_log.test_each_answer_has_its_line
        integration.test_access_log.test_every_ending_gives_exactly_one_line
        integration.test_hop_by_hop_fields.test_hop_by_hop_fields_of_a_request_stay_here
        integration.test_hop_by_hop_fields.test_fields_named_in_connection_stay_here
        integration.test_hop_by_hop_fields.test_everything_else_passes_as_it_came
        integration.test_local_answers.test_answer_says_what_happened_in_a_header_and_in_words
        integration.test_local_answers.test_header_can_be_renamed_and_turned_off
        integration.test_local_answers.test_failure_of_ours_keeps_the_connection_where_the_client_wants_it
        integration.test_local_answers.test_client_that_never_stops_sending_is_cut_off_in_the_end
        integration.test_forwarded_headers.test_request_without_host_is_forwarded_with_an_empty_claim
        integration.test_keep_alive.test_connection_close_of_the_client_is_answered_and_obeyed
        integration.test_keep_alive.test_close_is_found_anywhere_in_the_connection_header
        integration.test_expect_continue.test_http_1_0_clients_cannot_expect_anything
        integration.test_interim_responses.test_http_1_0_clients_get_none
        integration.test_pipelining.test_requests_behind_a_refused_one_are_not_served
        integration.test_pipelining.test_requests_behind_one_that_closes_are_not_served
        integration.test_route_actions.test_redirect_of_a_request_without_host_to_its_host_is_refused
        integration.test_sticky_cookies.test_several_cookie_fields_are_read_and_cleaned
        integration.test_sticky_cookies.test_http_1_0_clients_are_sticky_too
        integration.test_upgrade.test_request_and_answer_carry_the_upgrade_to_the_other_side
        integration.test_upgrade.test_refused_upgrade_is_an_ordinary_exchange
        integration.test_upgrade.test_request_pipelined_behind_a_refused_upgrade_is_served
        integration.test_upgrade.test_switch_before_the_request_is_whole_is_a_bad_response
        integration.test_upgrade.test_h2c_is_never_asked_of_a_backend
        integration.test_upgrade.test_upgrade_of_http_1_0_is_not_forwarded
        integration.test_trailers.test_client_of_http_1_0_gets_the_body_without_trailers
        integration.test_request_bodies.test_chunked_body_arrives_whole_and_chunked
        integration.test_request_bodies.test_empty_chunked_body_is_passed_on
        faults.test_time_outs.test_head_that_never_ends
        faults.test_time_outs.test_head_that_trickles_has_the_same_time_in_total
        faults.test_time_outs.test_head_of_a_later_request_has_its_own_time
        faults.test_time_outs.test_client_that_only_sends_empty_lines_is_closed
        faults.test_time_outs.test_idle_keep_alive_connection_is_closed
        faults.test_time_outs.test_client_that_stops_reading
        faults.test_early_and_extra_answers.test_flood_of_empty_lines_is_refused
        faults.test_data_and_end_together.test_request_and_end_of_the_client_get_their_answer
        faults.test_data_and_end_together.test_pipelined_requests_and_end_get_all_their_answers
        faults.test_data_and_end_together.test_half_a_request_and_end_is_no_request
        integration.test_targets.test_host_is_kept_as_the_client_sent_it
        integration.test_until_close_responses.test_http_1_0_client_gets_the_bytes_and_the_end
        faults.test_data_and_end_together.test_tunnel_data_and_end_are_passed_on
        integration.test_route_actions.test_method_and_version_make_no_difference_to_a_redirect_but_a_body_ends_the_connection
        integration.test_route_actions.test_rewritten_target_is_what_its_template_says
        integration.test_request_bodies.test_client_that_closes_in_its_body_ends_the_attempt
        integration.test_request_bodies.test_small_body_that_comes_after_its_answer_does_not_break_the_connection_unannounced
        integration.test_routes.test_most_specific_host_wins
        integration.test_targets.test_absolute_form_becomes_origin_form_and_its_authority_the_host
        faults.test_truncation.test_what_came_before_the_cut_is_delivered
        """,
    ),
    "has one request wait for the one before it, which streams do not": (
        (Wire.HTTP2,),
        """
        integration.test_expect_continue.test_client_that_does_not_wait_is_served_too
        faults.test_client_that_leaves.test_with_a_pipelined_request_behind
        integration.test_pipelining.test_request_behind_a_body_in_the_same_segment_is_the_next_one
        integration.test_replay.test_pipelined_request_behind_one_that_is_sent_again_is_not_lost
        integration.test_pipelining.test_second_request_waits_until_the_first_is_answered
        """,
    ),
    "makes a race between a request and the end of an idle connection, which is over when a stream has its turn": (
        (Wire.HTTP2,),
        """
        integration.test_replay.test_idempotent_request_is_sent_again_on_a_new_connection
        integration.test_replay.test_body_is_sent_again_too
        integration.test_replay.test_body_beyond_the_replay_limit_is_not_sent_again
        integration.test_request_id.test_all_attempts_of_an_exchange_have_the_same
        """,
    ),
}


def wires_of(module: str, test: str) -> list[Wire]:
    """The wires of this test, the plain one first."""
    wires = next((wires for wires, names in FILES.items() if module.removeprefix("tests.") in names.split()), ())
    name = f"{module.removeprefix('tests.')}.{test}"
    exempt = {wire for without, names in EXCEPT.values() if name in names.split() for wire in without}
    return [Wire.PLAIN, *(wire for wire in wires if wire not in exempt)]


def applies(parameters: Mapping[str, object]) -> bool:
    """Whether a test makes sense with what it is given: HTTP/2 has no version 1.0."""
    return parameters.get("wire") is not Wire.HTTP2 or parameters.get("version") != "1.0"
