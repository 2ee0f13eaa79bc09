"""The behaviours that users of such agents rely on, and that other agents got wrong, each with its test.

A row whose test does not exist fails, so the table promises nothing that is not tested.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

BEHAVIOURS = {
    # configuration
    "there may be several endpoints, one of them the default, each with its wire": "test_a_file_may_configure_several_endpoints",
    "without a file the environment configures one endpoint": "test_the_environment_configures_one_endpoint",
    "without any configuration there is one local endpoint": "test_without_configuration_there_is_one_local_endpoint",
    "a file overrides the environment and is not mixed with it": "test_a_file_wins_over_the_environment",
    "an empty XDG variable counts as unset": "test_an_empty_xdg_variable_counts_as_unset",
    "an invalid address in the environment is reported": "test_a_bad_url_in_the_environment_is_an_error",
    "names are unique, not empty, without a colon; the default exists": "test_a_mistake_in_the_file_as_a_whole_is_an_error",
    "one bad endpoint does not disable the others": "test_a_bad_endpoint_is_skipped_with_a_warning_that_names_it",
    "misspelt keys are reported": "test_unknown_keys_are_warned_about",
    "a literal key overrides the name of a variable": "test_a_literal_key_overrides_the_name_of_a_variable",
    "a model's tag, as in `llama3:8b`, is not taken for an endpoint": "test_a_selector_names_endpoint_and_model",
    "without a usable endpoint the program fails before it serves anything": "test_a_bad_configuration_is_reported_before_anything_is_served",
    # requests
    "a base URL may end with a slash": "test_urls_join_with_and_without_a_slash",
    "a plain request is streamed, with usage, without empty tools": "test_text_only_request_has_no_tools_key_and_plain_content",
    "tool calls and their results are sent back in the wire's own form": "test_the_chat_body_is_pinned",
    "all calls and the text of a turn are encoded": "test_the_responses_body_is_pinned",
    "tools are sent on every wire": "test_the_anthropic_body_is_pinned",
    "without a key no header is sent": "test_without_a_key_no_header_is_sent",
    "constructing a provider needs no network": "test_constructing_a_provider_opens_no_client",
    "arguments that are not JSON can be sent back": "test_malformed_arguments_can_be_sent_back",
    # answers
    "a stream's events are found, in order": "test_a_stream_is_parsed_at_once",
    "null lists, partial usage, errors inside a stream, a missing finish are understood": "test_answers_decode_to_their_events",
    "what remains at the end of a stream is not lost": "test_leaked_calls_and_thoughts_do_not_depend_on_the_cuts",
    "a broken chunk affects no other": "test_nonsense_gives_events_or_a_wire_error",
    "a request that was cancelled beforehand is not sent": "test_a_request_cancelled_beforehand_is_not_sent",
    "after a cancellation nothing more is shown": "test_cancel_ends_the_stream_though_data_is_ready",
    "a refusal names endpoint, status and reason": "test_failed_answers_become_errors",
    "a silent server times out": "test_a_silent_server_times_out",
    # protocol
    "initialize answers version 1": "test_initialize_answers_version_1_whatever_is_asked",
    "ids are echoed unchanged; unknown methods are refused": "test_ids_are_echoed_and_unknown_methods_refused",
    "invalid parameters have their own error code": "test_invalid_params_are_refused",
    "lines that are not messages get an error": "test_invalid_lines_get_errors_and_the_agent_continues",
    "the agent exits cleanly at the end of input": "test_the_agent_exits_cleanly_at_the_end_of_input",
    "sessions of earlier runs are never overwritten": "test_a_turn_edits_files_and_load_replays_what_was_shown",
    "lists of models are refreshed while the agent runs": "test_cold_models_and_windows_show_in_the_picker",
    "slash commands act, or expand to prompts": "test_slash_commands_act_or_expand",
    "permissions are remembered": "test_always_allow_is_remembered_across_restarts",
    # tools
    "no path leaves the roots, by `..` or by links": "test_no_path_leaves_the_roots",
    "plan mode writes one file only": "test_the_plan_file_is_one_file_not_a_directory",
    "an option that was not offered is no consent": "test_a_choice_that_was_not_offered_rejects_the_call",
    "the model is told why a call failed": "test_rejected_calls_reach_the_model_as_errors",
    "calls to unknown tools or with arguments that are not JSON get clear errors": "test_broken_calls_get_clear_errors",
    "an endless loop of calls ends": "test_endless_rounds_are_capped",
    "commands in the background end with their session": "test_a_command_outlives_its_turn_but_not_its_session",
    "the model may ask the user, in any client": "test_without_a_form_the_questions_are_text_and_end_the_turn",
    "a rewind goes back to before a turn, with the files": "test_rewind_goes_back_in_the_conversation_and_in_the_files",
    "the project's own repository is not touched": "test_the_projects_own_repository_is_not_touched",
    "a sub-agent does no more than its session may": "test_the_narrower_mode_counts",
    "a sub-agent ends at its limits": "test_a_limit_of_tokens_ends_the_task_and_not_the_turn",
    "a budget that is used up stops with a question": "test_a_session_stops_at_its_budget_with_a_question",
    "what an endpoint does not tell counts too": "test_what_an_endpoint_does_not_tell_of_its_usage_is_estimated",
    "a busy server is no silence": "test_a_pause_for_a_busy_server_is_shown_while_it_lasts",
    "a deferred tool is guarded like any other": "test_hooks_permissions_and_cards_see_the_tool_that_is_meant",
    "a title that the user sets stays": "test_a_title_that_the_client_sets_stays",
    "a hook that fails lets no call through": "test_a_hook_that_objects_or_fails_refuses_the_call_before_it_is_asked_about",
    "no byte of a file is lost by an edit": "test_an_edit_keeps_the_other_bytes_of_a_file",
    "an undo restores the bytes of before": "test_undo_restores_the_bytes",
    "search and list follow no link out of the roots": "test_list_follows_no_link_out_of_the_roots",
    "a remembered permission covers what was asked": "test_an_exact_rule_does_not_cover_the_same_words_with_other_quotes",
    "commands do not see the keys of endpoints": "test_commands_do_not_see_the_keys_of_endpoints",
    "nothing is hidden from the one who permits it": "test_cards_questions_and_replays_show_it",
    "a language server that hangs costs one edit its time": "test_a_server_that_hangs_is_waited_for_once",
    "language servers end with their session": "test_servers_end_with_the_session_and_their_children_too",
    "a sandboxed command writes nowhere else": "test_a_confined_command_writes_nowhere_else",
    "the sandbox claims no more than it does": "test_what_is_guaranteed_is_said_and_no_more",
    "a site's robots.txt is obeyed": "test_fetch_asks_a_site_once_and_does_as_it_says",
    "a request for permission offers one option of each kind": "test_at_most_one_option_of_each_kind_is_offered",
    "what the model cannot read is said": "test_an_image_that_the_model_cannot_read_is_said",
    "MCP servers end with their session, with their children": "test_a_stubborn_server_and_its_children_end_with_the_session",
    "commands and their children end with the turn": "test_cancel_kills_the_command_and_its_children",
    # storage
    "two editors share a session": "test_two_processes_take_turns_and_see_each_other",
    "the list of sessions is complete and ordered by date": "test_pages_are_the_latest_first_and_complete",
    "kill -9 loses no finished round": "test_kill_9_never_loses_a_finished_round",
    "a replay shows what was shown live": "test_replay_equals_what_was_shown",
    "old results are elided before prose, the user's messages never": "test_old_results_are_elided_before_prose_and_users_never",
    "nothing is elided while everything fits": "test_nothing_is_elided_while_it_fits",
    "a call and its result stay together": "test_the_cut_never_separates_a_call_from_its_result",
    "estimates grow with the content": "test_estimates_grow_with_content",
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
