"""What users of agents of this kind rely on, and what others got wrong, with the tests that show how we do it.

A row that names a test that is not there fails; so the table says what is tested, no more.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

BEHAVIOURS = {
    # configuration
    "several endpoints, a default one, a wire each": "test_a_file_may_configure_several_endpoints",
    "without a file one endpoint comes from the environment": "test_the_environment_configures_one_endpoint",
    "nothing at all is one local endpoint": "test_without_configuration_there_is_one_local_endpoint",
    "a file wins over the environment and is not mixed with it": "test_a_file_wins_over_the_environment",
    "an empty XDG variable is an unset one": "test_an_empty_xdg_variable_counts_as_unset",
    "an empty or wrong address in the environment is said": "test_a_bad_url_in_the_environment_is_an_error",
    "names are unique, not empty, without a colon; the default exists": "test_a_mistake_in_the_file_as_a_whole_is_an_error",
    "one bad endpoint does not take the others down": "test_a_bad_endpoint_is_skipped_with_a_warning_that_names_it",
    "misspelt keys are said, not ignored": "test_unknown_keys_are_warned_about",
    "a literal key is over the name of a variable": "test_a_literal_key_overrides_the_name_of_a_variable",
    "a model's tag such as `llama3:8b` is no endpoint": "test_a_selector_names_endpoint_and_model",
    "no usable endpoint is a failure before anything is served": "test_a_bad_configuration_is_reported_before_anything_is_served",
    # requests
    "addresses join with and without a slash at the end": "test_urls_join_with_and_without_a_slash",
    "a plain request is streamed, with usage, without empty tools": "test_text_only_request_has_no_tools_key_and_plain_content",
    "tool calls and their results go back in the wire's own shape": "test_the_chat_body_is_pinned",
    "every call of a turn is encoded, and its prose": "test_the_responses_body_is_pinned",
    "tools are sent on every wire": "test_the_anthropic_body_is_pinned",
    "no key, no header": "test_without_a_key_no_header_is_sent",
    "making a provider costs no network": "test_constructing_a_provider_opens_no_client",
    "arguments that are no JSON can be sent back": "test_malformed_arguments_can_be_sent_back",
    # answers
    "an answer's events in order, usage in a chunk of its own": "test_a_stream_is_parsed_at_once",
    "null lists, partial usage, errors inside a stream, no finish: every quirk of the table": "test_answers_decode_to_their_events",
    "what is left over at the end is not lost": "test_leaked_calls_and_thoughts_do_not_depend_on_the_cuts",
    "a broken chunk costs only itself": "test_nonsense_gives_events_or_a_wire_error",
    "cancelled beforehand: nothing is asked": "test_a_request_cancelled_beforehand_is_not_sent",
    "cancelled in the middle: nothing more comes": "test_cancel_ends_the_stream_though_data_is_ready",
    "a refusal names endpoint, status and reason": "test_failed_answers_become_errors",
    "a silent server is not waited for for ever": "test_a_silent_server_times_out",
    # protocol
    "initialize answers version 1": "test_initialize_answers_version_1_whatever_is_asked",
    "every id comes back as it was; unknown methods are said to be": "test_ids_are_echoed_and_unknown_methods_refused",
    "wrong parameters and unknown sessions have their own codes": "test_invalid_params_are_refused",
    "lines that are no requests get their error": "test_invalid_lines_get_errors_and_the_agent_continues",
    "the end of input is a clean exit": "test_the_agent_exits_cleanly_at_the_end_of_input",
    "sessions of earlier runs are never overwritten": "test_a_turn_edits_files_and_load_replays_what_was_shown",
    "models are asked for again while the agent runs": "test_cold_models_and_windows_show_in_the_picker",
    "sign-in, MCP servers, slash commands, plans, options, deletion": "test_slash_commands_act_or_expand",
    "permissions last": "test_always_allow_is_remembered_across_restarts",
    # tools
    "no path leaves the roots, through `..` or links": "test_no_path_leaves_the_roots",
    "plan mode writes one file": "test_the_plan_file_is_one_file_not_a_directory",
    "an option that only looks like consent is none": "test_a_choice_that_was_not_offered_rejects_the_call",
    "a call that fails tells the model why": "test_rejected_calls_reach_the_model_as_errors",
    "calls to tools that are not there, with arguments that are not JSON": "test_broken_calls_get_clear_errors",
    "a loop ends": "test_endless_rounds_are_capped",
    "commands and their children end with the turn": "test_cancel_kills_the_command_and_its_children",
    # memory
    "a log that two editors share": "test_two_processes_take_turns_and_see_each_other",
    "dates survive, pages are complete": "test_pages_are_the_latest_first_and_complete",
    "kill -9 loses no finished round": "test_kill_9_never_loses_a_finished_round",
    "replay is what was shown": "test_replay_equals_what_was_shown",
    "compaction elides results before prose, and users never": "test_old_results_are_elided_before_prose_and_users_never",
    "what fits stays": "test_nothing_is_elided_while_it_fits",
    "a call and its result stay together": "test_the_cut_never_separates_a_call_from_its_result",
    "estimates grow with what they measure": "test_estimates_grow_with_content",
}  # fmt: skip


def _tests() -> set[str]:
    return {
        node.name
        for file in Path(__file__).parent.glob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.fixture(scope="module")
def tests() -> set[str]:
    return _tests()


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_every_behaviour_has_its_test(tests: set[str], behaviour: str):
    assert BEHAVIOURS[behaviour] in tests
