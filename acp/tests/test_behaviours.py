"""What users of agents of this kind rely on, and what others got wrong, with the tests that show how we do it.

A row that names a test that is not there fails; so the table says what is tested, no more.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

BEHAVIOURS = {
    # configuration
    "several endpoints, a default one, a wire each": "test_toml_with_several_endpoints",
    "without a file one endpoint comes from the environment": "test_environment_alone",
    "nothing at all is one local endpoint": "test_nothing_at_all_gives_one_endpoint",
    "a file wins over the environment and is not mixed with it": "test_a_file_wins_over_the_environment",
    "an empty XDG variable is an unset one": "test_home_when_xdg_is_empty",
    "an empty or wrong address in the environment is said": "test_a_bad_url_in_the_environment",
    "names are unique, not empty, without a colon; the default exists": "test_mistakes_of_the_whole_file",
    "one bad endpoint does not take the others down": "test_a_bad_endpoint_is_skipped_with_a_warning_that_names_it",
    "misspelt keys are said, not ignored": "test_unknown_keys_are_said",
    "a literal key is over the name of a variable": "test_a_literal_key_wins",
    "a model's tag such as `llama3:8b` is no endpoint": "test_selector",
    "no usable endpoint is a failure before anything is served": "test_a_bad_configuration_is_said_before_anything_else",
    # requests
    "addresses join with and without a slash at the end": "test_url_join",
    "a plain request is streamed, with usage, without empty tools": "test_text_only_request_has_no_tools_key_and_plain_content",
    "tool calls and their results go back in the wire's own shape": "test_chat",
    "every call of a turn is encoded, and its prose": "test_responses",
    "tools are sent on every wire": "test_anthropic",
    "no key, no header": "test_no_key_no_header",
    "making a provider costs no network": "test_construction_is_cheap",
    "arguments that are no JSON can be sent back": "test_malformed_arguments_can_be_sent_back",
    # answers
    "an answer's events in order, usage in a chunk of its own": "test_the_whole_at_once",
    "null lists, partial usage, errors inside a stream, no finish: every quirk of the table": "test_cases",
    "what is left over at the end is not lost": "test_leaked_calls_and_thoughts_do_not_depend_on_the_cuts",
    "a broken chunk costs only itself": "test_nonsense_gives_events_or_a_wire_error",
    "cancelled beforehand: nothing is asked": "test_cancelled_beforehand_gives_nothing_and_asks_nothing",
    "cancelled in the middle: nothing more comes": "test_cancel_in_the_middle_ends_the_stream_though_data_is_ready",
    "a refusal names endpoint, status and reason": "test_errors",
    "a silent server is not waited for for ever": "test_a_silent_server_times_out",
    # protocol
    "initialize answers version 1": "test_initialize_answers_version_1_whatever_is_asked",
    "every id comes back as it was; unknown methods are said to be": "test_order_ids_and_unknown_methods",
    "wrong parameters and unknown sessions have their own codes": "test_invalid_params",
    "lines that are no requests get their error": "test_bad_lines_get_their_error_and_the_agent_goes_on",
    "the end of input is a clean exit": "test_end_of_input_is_a_clean_exit",
    "sessions of earlier runs are never overwritten": "test_a_turn_edits_files_and_load_replays_what_was_shown",
    "models are asked for again while the agent runs": "test_cold_models_and_windows_show_in_the_picker",
    "sign-in, MCP servers, slash commands, plans, options, deletion": "test_commands",
    "permissions last": "test_always_allow_is_remembered_across_restarts",
    # tools
    "no path leaves the roots, through `..` or links": "test_no_path_leaves_the_roots",
    "plan mode writes one file": "test_the_plan_file_is_one_file_not_a_directory",
    "an option that only looks like consent is none": "test_an_unoffered_choice_is_a_no",
    "a call that fails tells the model why": "test_rejected_calls_reach_the_model_as_errors",
    "calls to tools that are not there, with arguments that are not JSON": "test_broken_calls_get_clear_errors",
    "a loop ends": "test_endless_calls_are_capped",
    "commands and their children end with the turn": "test_cancel_kills_the_command_and_its_children",
    # memory
    "a log that two editors share": "test_two_processes_take_turns_and_see_each_other",
    "dates survive, pages are complete": "test_pages_are_the_latest_first_and_complete",
    "kill -9 loses no finished round": "test_kill_9_never_loses_a_finished_round",
    "replay is what was shown": "test_replay_equals_what_was_shown",
    "compaction elides results before prose, and users never": "test_old_results_go_before_prose_and_users_never",
    "what fits stays": "test_nothing_is_elided_while_it_fits",
    "a call and its result stay together": "test_the_cut_never_parts_a_call_from_its_result",
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
