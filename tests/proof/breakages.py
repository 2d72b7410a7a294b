"""What would break the protocol, as one edit each, and the test that must notice it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Breakage:
    """One edit of one file: `right` stands there once, `wrong` takes its place, and then `caught_by` fails."""

    name: str
    file: str
    right: str
    wrong: str
    caught_by: str


BACKGROUND = "broker/tokens/background.py"
REFRESH = "broker/tokens/refresh.py"
RENEWALS = "broker/store/renewals.py"
SCHEDULE = "broker/tokens/schedule.py"

BREAKAGES = (
    Breakage(
        "release before commit",
        "broker/store/writer.py",
        """        self._connection.execute("COMMIT")
        return each

    def _roll_back""",
        """        import threading
        thread = threading.current_thread()._args[0]()
        self._roll_back = lambda: None
        thread.submit(time.sleep, 0.2)
        thread.submit(self._connection.execute, "COMMIT")
        return each

    def _roll_back""",
        "tests/proof/test_system_calls.py::test_store_is_synced_before_the_request_and_before_the_answer",
    ),
    Breakage(
        "commit without fsync",
        "broker/store/writer.py",
        '"PRAGMA synchronous = FULL"',
        '"PRAGMA synchronous = NORMAL"',
        "tests/store/test_sqlite.py::test_durable_settings_hold_on_the_writing_connection",
    ),
    Breakage(
        "dead on first refusal",
        REFRESH,
        "if trouble.refusals < needed or now - first < span:",
        "if now - first > span:",
        "tests/tokens/test_refresh.py::test_r8_single_refusal_harms_nobody",
    ),
    Breakage(
        "no compare-and-set",
        RENEWALS,
        """ambiguous = 0, refusals = 0, first_refused_at = NULL, dead = NULL, dead_since = NULL
 WHERE name = $1 AND epoch = $2 AND generation = $3\"""",
        """ambiguous = 0, refusals = 0, first_refused_at = NULL, dead = NULL, dead_since = NULL
 WHERE name = $1 AND epoch = $2 AND generation + 9 > $3\"""",
        "tests/store/test_renewals.py::test_commit_of_a_loser_changes_nothing",
    ),
    Breakage(
        "commit into a later epoch",
        RENEWALS,
        """ambiguous = 0, refusals = 0, first_refused_at = NULL, dead = NULL, dead_since = NULL
 WHERE name = $1 AND epoch = $2 AND generation = $3\"""",
        """ambiguous = 0, refusals = 0, first_refused_at = NULL, dead = NULL, dead_since = NULL
 WHERE name = $1 AND epoch >= $2 AND generation >= $3\"""",
        "tests/tokens/test_refresh.py::test_reinstall_during_a_renewal_wins",
    ),
    Breakage(
        "retry without quarantine",
        SCHEDULE,
        "return wait if grace is None else min(wait, grace / 3)",
        "return 0.0 * wait",
        "tests/proof/test_failpoints.py::test_quarantine_outlives_the_broker",
    ),
    Breakage(
        "quarantine as long as the grace",
        SCHEDULE,
        "return wait if grace is None else min(wait, grace / 3)",
        "return wait if grace is None else grace",
        "tests/proof/test_failpoints.py::test_crashes_that_leave_most_in_doubt",
    ),
    Breakage(
        "cancel on hang-up",
        "broker/tokens/flight.py",
        """        finally:
            self._queued -= is_first
""",
        """        except asyncio.CancelledError:
            task.cancel()
            raise
        finally:
            self._queued -= is_first
""",
        "tests/tokens/test_flight.py::test_caller_who_is_cancelled_cancels_only_its_own_waiting",
    ),
    Breakage(
        "spool skipped",
        "broker/store/retained.py",
        "path = await asyncio.to_thread(self._spool.write, record)\n        self._spooled",
        "path = None\n        self._spooled",
        "tests/proof/test_failpoints.py::test_every_crash_ends_as_the_table_says",
    ),
    Breakage(
        "spool of installs skipped",
        "broker/store/retained.py",
        "path = await asyncio.to_thread(self._spool.write, record)\n        self._spooled",
        "path = None\n        self._spooled",
        "tests/proof/test_installs.py::test_grant_that_could_not_be_held_outlives_a_kill",
    ),
    Breakage(
        "intent after POST",
        REFRESH,
        "outcome = await attempt.provider.request_token(request, before_send=announce)",
        """async def nothing() -> None:
                    pass

                outcome = await attempt.provider.request_token(request, before_send=nothing)
                await announce()""",
        "tests/proof/test_system_calls.py::test_store_is_synced_before_the_request_and_before_the_answer",
    ),
    Breakage(
        "invalid_client kills",
        "broker/providers/classify.py",
        'is_client_error and error is not None and error.error == "invalid_grant"',
        'is_client_error and error is not None and error.error in ("invalid_grant", "invalid_client")',
        "tests/proof/test_clients.py::test_wrong_secret_harms_no_account",
    ),
    Breakage(
        "a lost answer taken for a refusal",
        "broker/providers/classify.py",
        "outcome = Ambiguous(reply.why, reply.timed_out, reason=reason)",
        "return Refused(reply.why)",
        "tests/tokens/test_refresh.py::test_r7_ambiguous_answers_keep_the_intent_and_the_schedule",
    ),
    Breakage(
        "redirects are followed",
        "broker/providers/client.py",
        "allow_redirects=False",
        "allow_redirects=True",
        "tests/providers/test_client.py",
    ),
    Breakage(
        "somebody else's lease is taken",
        RENEWALS,
        "AND (intent_id IS NULL OR lease_owner = $6 OR lease_until <= {now})",
        "AND ($6 = $6 OR lease_until <= {now})",
        "tests/store/test_renewals.py::test_intent_is_a_lease",
    ),
    Breakage(
        "boot forgets what was left open",
        "broker/tokens/recovery.py",
        "left_open = [await self._quarantined(account) for account in opened]",
        "left_open: list[Account] = []",
        # The lease alone would keep a second request away; that nobody renews it at all is what is seen.
        "tests/tokens/test_refresh.py::test_r10_boot_waits_out_the_quarantine_for_everybody",
    ),
    Breakage(
        "stop without drain",
        "broker/serve.py",
        "await broker.tokens.flights.drain()",
        "pass",
        "tests/proof/test_crowds.py::test_sigterm_waits_for_every_outstanding_request",
    ),
    Breakage(
        "a copied store renews",
        "broker/tokens/permit.py",
        "if self.copied_store:",
        "if self.copied_store and self.stopping:",
        "tests/flows/test_adoption.py::test_copy_renews_nothing_until_adopted",
    ),
    Breakage(
        "mass death believed",
        REFRESH,
        "if self._permit.breaker(account.provider).is_mass_refusing(now):",
        "if self._permit.breaker(account.provider).is_mass_refusing(now) and self._permit.copied_store:",
        "tests/tokens/test_refresh.py::test_r9_mass_refusal_declares_nobody_dead",
    ),
    Breakage(
        "a living lease of another broker is adopted",
        RENEWALS,
        "AND lease_owner IS NOT NULL AND (lease_owner = $7 OR lease_until <= {{now}})",
        "AND lease_owner IS NOT NULL AND ($7 = $7 OR lease_until <= {{now}})",
        "tests/store/test_renewals.py::test_attempt_that_nobody_concluded_counts_as_ambiguous",
    ),
    Breakage(
        "an attempt of another is settled",
        RENEWALS,
        "AND (CAST($16 AS TEXT) IS NULL OR COALESCE(intent_id, '') = $16)",
        "AND (CAST($16 AS TEXT) IS NULL OR COALESCE($16, '') = $16)",
        "tests/store/test_renewals.py::test_attempt_of_another_is_not_settled",
    ),
    Breakage(
        "leases by the broker's own clock",
        "broker/store/postgres.py",
        'clock="CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"',
        "clock=None",
        "tests/store/test_postgres.py::test_lease_is_counted_by_the_servers_clock",
    ),
    Breakage(
        "due accounts are not claimed",
        RENEWALS,
        "await transaction.execute(CLAIM, account.name, claim_until)",
        "await transaction.fetch(NEXT_DUE)",
        "tests/store/test_postgres.py::test_due_accounts_are_shared_out",
    ),
    Breakage(
        "due accounts are all renewed at once",
        BACKGROUND,
        "self._next_at[provider] = now + jitter / RATE",
        "self._next_at[provider] = now",
        "tests/tokens/test_storm.py::test_each_is_renewed_once_at_each_providers_own_pace",
    ),
    Breakage(
        "providers wait for each other's turns",
        BACKGROUND,
        "return self._next_at.get(provider, 0.0)",
        "return max(self._next_at.values(), default=0.0)",
        "tests/tokens/test_storm.py::test_provider_that_hangs_holds_up_no_other",
    ),
    Breakage(
        "another broker's news are not told",
        "broker/store/postgres.py",
        'await self._connection.execute(NOTIFY, f"{self._sender} {name}")',
        "pass",
        "tests/replication/test_renewal.py::test_token_renewed_by_one_is_served_by_the_other",
    ),
    Breakage(
        "memory served unchecked while nothing is heard",
        "broker/tokens/cache.py",
        "return entry if issued_at <= now <= opens - 1 and self._are_heard() else None",
        "return entry if issued_at <= now <= opens - 1 else None",
        "tests/tokens/test_cache.py::test_nothing_is_taken_from_memory_while_changes_are_not_heard",
    ),
    Breakage(
        "what was missed is not forgotten",
        "broker/store/postgres.py",
        "self.changes.missed()",
        "pass",
        "tests/replication/test_outage.py::test_other_brokers_news_are_not_missed",
    ),
    Breakage(
        "two brokers of one name",
        "broker/store/postgres_connection.py",
        "self.is_named = bool(await connection.fetchval(TAKE_NAME, self._replica))",
        "self.is_named = True",
        "tests/store/test_moving.py::test_replica_of_a_name_that_is_taken_does_not_start",
    ),
    Breakage(
        "a moved store starts again",
        "broker/store/migrate.py",
        "    if await keys.meta(MOVED_TO):",
        "    if not MOVED_TO and await keys.meta(MOVED_TO):",
        "tests/store/test_moving.py::test_source_starts_no_broker_any_more",
    ),
    Breakage(
        "a copy that is not counted",
        "broker/store/migrate.py",
        "if copied[table] != count:",
        "if copied[table] > count:",
        "tests/store/test_moving.py::test_row_that_is_lost_on_the_way_stops_the_move",
    ),
)
