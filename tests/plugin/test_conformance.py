"""Each rule of the RFCs that binds a server like this one, beside the test that holds it to the rule."""

import importlib

import pytest

CONSENT, TOKENS, ENDINGS = "plugin.test_consent", "plugin.test_tokens", "plugin.test_endings"
REQUESTS, CONFIG, LIBRARY = "plugin.test_requests", "config.test_plugin", "flows.test_oauthlib"
SHAPES = "plugin.test_shapes"

# ruff: noqa: E501 - a table, one rule a line
RULES: tuple[tuple[str, str, str, str], ...] = (
    # RFC 6749, what the authorization server MUST do.
    ("6749 2.3", "not more than one way to authenticate", REQUESTS, "test_one_way_of_proving_who_it_is"),
    ("6749 2.3.1", "Basic is supported, id and secret form-encoded", TOKENS, "test_secret_in_the_header_or_the_body"),
    ("6749 2.3.1", "credentials not in the address", REQUESTS, "test_parameters_in_the_address_are_refused"),
    ("6749 3.1", "GET at the authorization endpoint; the owner is identified first", CONSENT, "test_who_does_not_sign_in_is_not_asked"),
    ("6749 3.1", "parameters without a value are omitted ones, unknown ones are ignored", SHAPES, "test_empty_and_unknown_parameters_change_nothing"),
    ("6749 3.1", "parameters not more than once", CONSENT, "test_repeated_parameter_is_told_to_the_client"),
    ("6749 3.1.1", "response_type missing or unknown is an error", CONSENT, "test_other_mistakes_are_told_to_the_client"),
    ("6749 3.1.2", "redirect URI absolute, without fragment; its query is kept", CONFIG, "test_mistake_is_told_with_its_key"),
    ("6749 3.1.2.2", "registered before use", CONFIG, "test_mistake_is_told_with_its_key"),
    ("6749 3.1.2.3", "compared with the registered ones; needed where there are several", CONSENT, "test_wrong_client_or_address_gets_a_page_and_no_redirect"),
    ("6749 3.1.2.4", "no redirect to an invalid address; the person is told", CONSENT, "test_wrong_client_or_address_gets_a_page_and_no_redirect"),
    ("6749 3.2", "POST at the token endpoint", REQUESTS, "test_only_post"),
    ("6749 3.2", "parameters not more than once, empty ones omitted", SHAPES, "test_empty_and_unknown_parameters_change_nothing"),
    ("6749 3.2.1", "confidential clients authenticate", TOKENS, "test_client_that_must_prove_itself_must_at_renewal_too"),
    ("6749 3.3", "scope in the answer where it is not what was asked for", TOKENS, "test_answer_has_all_that_kit_needs"),
    ("6749 4.1.2", "codes are short-lived", TOKENS, "test_code_lives_a_minute"),
    ("6749 4.1.2", "codes are used once; a replay is denied and revokes", ENDINGS, "test_replayed_code_ends_what_it_gave"),
    ("6749 4.1.2", "also when they race", TOKENS, "test_code_is_good_once_also_in_a_crowd"),
    ("6749 4.1.2", "codes are bound to client and address", TOKENS, "test_code_of_another_client_is_worth_nothing"),
    ("6749 4.1.2", "state comes back exactly", CONSENT, "test_yes_goes_back_with_a_code_the_state_and_who_we_are"),
    ("6749 4.1.2.1", "wrong client or address: no redirect", CONSENT, "test_repeated_client_or_address_gets_a_page"),
    ("6749 4.1.2.1", "a denial and other errors are told, with state", CONSENT, "test_no_goes_back_with_access_denied"),
    ("6749 4.1.2.1", "temporarily_unavailable in place of a 503", ENDINGS, "test_nothing_is_issued_that_cannot_be_audited"),
    ("6749 4.1.3", "client authentication, code, address are checked", TOKENS, "test_what_is_wrong_is_told_and_spends_nothing"),
    ("6749 5.1", "the members, no-store, Pragma", SHAPES, "test_token_answer_is_not_cached"),
    ("6749 5.2", "401 with a challenge for who used the header", REQUESTS, "test_one_way_of_proving_who_it_is"),
    ("6749 5.2", "the error words, ASCII, without quotes and backslashes", SHAPES, "test_descriptions_hold_only_what_they_may"),
    ("6749 6", "bound to the client; authenticated where it must be", TOKENS, "test_client_that_must_prove_itself_must_at_renewal_too"),
    ("6749 6", "scope not beyond the grant; the refresh token keeps the grant's", TOKENS, "test_scopes_can_shrink_and_never_grow"),
    ("6749 10.3, 10.4, 10.10", "tokens and codes cannot be guessed", SHAPES, "test_tokens_hold_256_random_bits"),
    ("6749 10.12", "CSRF: the answer is bound to the browser", CONSENT, "test_answer_without_the_pages_token_does_not_count"),
    ("6749 10.13", "not to be framed", CONSENT, "test_page_cannot_be_framed_and_leads_to_the_client_only"),
    ("6749 10.14", "what comes in is checked", REQUESTS, "test_garbage_is_told_in_json"),
    # RFC 7636, PKCE.
    ("7636 4.3, 4.4.1", "unknown or missing method is invalid_request", CONSENT, "test_other_mistakes_are_told_to_the_client"),
    ("7636 4.6", "the verifier is checked, else invalid_grant", TOKENS, "test_pkce_is_held_to"),
    ("7636 4.1", "43 to 128 characters", SHAPES, "test_verifier_has_its_length"),
    # RFC 7009, revocation.
    ("7009 2", "POST over the same transport; JSON errors", REQUESTS, "test_only_post"),
    ("7009 2.1", "credentials are checked, then whose token it is", ENDINGS, "test_revoking_needs_the_secret_and_a_token"),
    ("7009 2.1", "the whole grant goes with either token", ENDINGS, "test_revoking_any_token_ends_its_grant"),
    ("7009 2.1", "a wrong hint does not matter", ENDINGS, "test_revoking_any_token_ends_its_grant"),
    ("7009 2.2", "200 for unknown tokens", ENDINGS, "test_unknown_token_is_revoked_alike"),
    ("7009 2.1", "another client's token stays", ENDINGS, "test_token_of_another_client_is_not_revoked"),
    # RFC 7662, introspection.
    ("7662 2.1", "callers are authorized; a token is required", ENDINGS, "test_introspection_is_for_callers_with_the_permission"),
    ("7662 2.2", "active with its facts", ENDINGS, "test_introspection_tells_services_whose_token_it_is"),
    ("7662 2.2, 4", "inactive tokens say no more than that", ENDINGS, "test_introspection_says_no_more_than_no"),
    # RFC 8414, metadata, and 9207, iss.
    ("8414 2, 3.2", "issuer, endpoints, types; no empty claims", ENDINGS, "test_metadata_names_what_is_there"),
    ("8414 3.3, 9207 2", "the issuer is the one that answers carry", CONSENT, "test_yes_goes_back_with_a_code_the_state_and_who_we_are"),
    ("9207 2", "iss in errors too", CONSENT, "test_other_mistakes_are_told_to_the_client"),
    # RFC 9700, the SHOULDs that apply.
    ("9700 2.1, 4.1.3", "exact comparison of addresses", CONSENT, "test_wrong_client_or_address_gets_a_page_and_no_redirect"),
    ("9700 2.1.1, 4.8.2", "no PKCE downgrade: a verifier without a challenge is refused", TOKENS, "test_what_is_wrong_is_told_and_spends_nothing"),
    ("9700 2.2.2, 4.14.2", "rotation; reuse ends the grant", TOKENS, "test_reuse_after_a_minute_ends_the_grant"),
    ("9700 4.2.4", "no referrer", CONSENT, "test_yes_goes_back_with_a_code_the_state_and_who_we_are"),
    ("9700 4.12", "303, never 307", CONSENT, "test_yes_goes_back_with_a_code_the_state_and_who_we_are"),
    ("9700 4.16", "frame-ancestors", CONSENT, "test_page_cannot_be_framed_and_leads_to_the_client_only"),
    ("9700 4.11", "no open redirector", CONSENT, "test_wrong_client_or_address_gets_a_page_and_no_redirect"),
    # What others wrote agrees.
    ("all", "a library that nobody here wrote", LIBRARY, "test_code_token_refresh_revoke"),
    # The catalogue of failures, 2.4.
    ("catalogue", "a lost answer is given again, sealed under the old token", TOKENS, "test_lost_answer_is_given_again"),
    ("catalogue", "until the successor is used, and ten seconds", TOKENS, "test_reuse_after_the_successor_was_used_ends_the_grant"),
    ("catalogue", "any registered address for the code", TOKENS, "test_kit_may_redeem_with_any_address_of_its_own"),
    ("catalogue", "no secret at renewal, but a wrong one is wrong", TOKENS, "test_client_that_must_prove_itself_must_at_renewal_too"),
    ("catalogue", "only hashes in the store", CONSENT, "test_store_holds_no_secret_in_clear"),
    ("catalogue", "the sealed pair opens with the old token alone", SHAPES, "test_pair_is_decrypted_with_its_own_token_alone"),
    ("catalogue", "consent: a token, the origin", CONSENT, "test_answer_from_another_site_does_not_count"),
    ("catalogue", "JSON under a form's name", TOKENS, "test_both_grants_at_both_addresses_in_every_dress"),
    ("catalogue", "audited; nothing issued without", ENDINGS, "test_everything_issued_and_ended_is_audited"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("section", "rule", "module", "name"), RULES, ids=[f"{rule[0]}: {rule[1]}" for rule in RULES]
)
def test_rule_has_its_test(section: str, rule: str, module: str, name: str) -> None:
    """Under that name, with a docstring; a test that was taken away leaves its rule behind."""
    test = getattr(importlib.import_module(f"tests.{module}"), name)

    assert callable(test) and test.__doc__
