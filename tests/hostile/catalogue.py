"""Rows of the catalogue of bad input whose tests stand in the room that they are about."""

INSTALLS: dict[str, tuple[str, ...]] = {
    "expired": ("tests/installs/test_flow.py::test_expired_link_and_state",),
    "replayed, or a double callback": (
        "tests/installs/test_flow.py::test_state_is_good_once_also_in_a_race",
        "tests/installs/test_flow.py::test_second_visit_shows_the_result_again",
    ),
    "foreign state, cookies blocked": (
        "tests/installs/test_flow.py::test_callback_in_another_browser_is_refused",
    ),
    "mix-up": ("tests/installs/test_flow.py::test_callback_at_another_provider_is_refused",),
    "access denied": ("tests/installs/test_flow.py::test_person_who_says_no_changes_nothing",),
    "missing code, code and error, repeated parameters": (
        "tests/installs/test_flow.py::test_malformed_callback_is_told",
    ),
    "open redirect": (
        "tests/installs/test_flow.py::test_no_open_redirect",
        "tests/installs/test_kit_return.py::test_nothing_else_is_a_way_out",
    ),
    "wrong tenant over an account": ("tests/installs/test_flow.py::test_other_identity_needs_replace",),
    "exchange ambiguous": ("tests/installs/test_flow.py::test_exchange_that_fails_leaves_the_old_grant",),
    "framing and referrer of a page": ("tests/http/pages/test_serving.py::test_page_keeps_to_itself",),
    "code and state in logs": ("tests/flows/test_canaries.py::test_sign_in_leaves_no_secret",),
    "HEAD and prefetch": ("tests/installs/test_flow.py::test_prefetch_and_head_take_nothing",),
}

API: dict[str, tuple[str, ...]] = {
    "account names": (
        "tests/tokens/test_service.py::test_bad_name_is_refused",
        "tests/hostile/test_raw_requests.py::test_hostile_requests_are_refused_and_forgotten",
    ),
    "existence oracle": ("tests/tokens/test_service.py::test_order_of_refusal",),
    "malformed HTTP": (
        "tests/hostile/test_raw_requests.py::test_hostile_requests_are_refused_and_forgotten",
    ),
    "token in logs through parse errors": (
        "tests/flows/test_canaries.py::test_malformed_requests_get_one_constant_answer",
        "tests/flows/test_canaries.py::test_no_secret_is_left_anywhere",
    ),
    "bodies, gzip bombs": (
        "tests/hostile/test_limits.py::test_body_has_16_kib",
        "tests/hostile/test_limits.py::test_body_of_a_get_is_ignored_and_ends_the_connection",
        "tests/hostile/test_raw_requests.py::test_hostile_requests_are_refused_and_forgotten",
    ),
    "slow header, connections of a peer": (
        "tests/hostile/test_limits.py::test_slow_header_is_cut",
        "tests/hostile/test_limits.py::test_stranger_has_64_connections",
        "tests/hostile/test_limits.py::test_full_listener_says_so",
    ),
    "slow body": ("tests/hostile/test_limits.py::test_slow_body_is_told",),
    "tracebacks": ("tests/flows/test_canaries.py::test_crash_tells_its_class_and_place_only",),
    "token fingerprints": ("tests/audit/test_record.py::test_handed_out_token_is_on_record_without_itself",),
    "overload": (
        "tests/hostile/test_overload.py::test_next_one_is_refused_at_once_and_living_tokens_are_served",
    ),
}
