"""The process of `broker serve`: signals, listeners, background tasks, and a stop that loses no token (R11)."""

import asyncio
import gc
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web

from broker.admin.routes import RELOAD
from broker.app import Broker, open_broker
from broker.app.listeners import ListenerLimits
from broker.clock import SystemClock
from broker.config import ConfigError, admin_socket_of, load, reloadable, wipe_variables
from broker.config.settings import LogSettings, Settings
from broker.config.values import UnixListen
from broker.demo import show_demo
from broker.errors import StartRefused, StorageUnavailable
from broker.http.server import QuietRunner, TlsSite
from broker.http.sockets import ServerTls, Sockets, refused, usable, use_every_file
from broker.observe import logs
from broker.sandbox import Sandbox
from broker.systemd.process import Notifier, harden, passed_sockets
from broker.tokens.background import until_cancelled
from broker.tokens.schedule import Timings, Watch, unwatched

log = structlog.get_logger()
EXTEND_EVERY = 5.0
COLLECT_AFTER = (10_000, 10, 10)
"""The thresholds of the garbage collector. By default it runs so often that it scans many running renewals again and
again."""
REFUSED = "The broker does not start:"
STARTING = "The broker is starting; ask again in a moment."
READY = "serving tokens"
UNTIL_CONFIGURED = LogSettings(format="auto", level="info")


def run(
    config_path: Path,
    environ: Mapping[str, str],
    port: int | None = None,
    *,
    timings: Timings | None = None,
    watch: Watch = unwatched,
) -> int:
    """Run the broker until SIGTERM or SIGINT and return the exit code. `timings` and `watch` are for proofs."""
    harden()
    logs.configure(UNTIL_CONFIGURED, environ=environ)
    logs.take_crashes()
    sockets = Sockets()
    try:
        sockets = Sockets(passed_sockets(environ))
        settings = load(config_path, environ=environ, port=port)
        logs.configure(settings.log, environ=environ)
        # `environ` is a copy, which a reload reads again.
        wipe_variables(settings.variables)
        for warning in settings.warnings:
            log.warning("config.doubtful", detail=warning)
        service = Service(
            settings, sockets, environ=environ, port=port, timings=timings or Timings(), watch=watch
        )
        # uvloop is optional, because some platforms do not have it.
        loop_factory = None
        with suppress(ImportError):
            import uvloop  # noqa: PLC0415 - as above

            loop_factory = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(service.run())
        return 0
    except ConfigError as exc:
        why, lines = "; ".join(exc.problems), ["The configuration is not valid:"]
        lines += [f"  {problem}" for problem in exc.problems]
    except StartRefused as exc:
        why, lines = str(exc), [f"{REFUSED} {exc}"]
    except BaseException as exc:
        log.error("broker.crashed", exc_info=exc)
        _answer_waiting(sockets, config_path, environ, "it crashed; see its log")
        # The store's threads would keep the process alive although it serves nobody, so it would not be restarted.
        os._exit(1)
    _answer_waiting(sockets, config_path, environ, why)
    mark = logs.mark("error") if logs.goes_to_journal(environ) else ""
    for line in lines:
        print(f"{mark}{line}", file=sys.stderr)  # noqa: T201 - there is no log yet, only a terminal
    return 1


class Service:
    """One run of the broker, from opening its sockets to its last renewal."""

    def __init__(
        self,
        settings: Settings,
        sockets: Sockets,
        *,
        environ: Mapping[str, str],
        port: int | None,
        timings: Timings,
        watch: Watch,
    ) -> None:
        self._settings, self._sockets, self._environ, self._port = settings, sockets, environ, port
        self._timings, self._watch = timings, watch
        self._notifier = Notifier(environ)
        self._stop = asyncio.Event()
        self._tls: list[ServerTls] = []

    async def run(self) -> None:
        """Start the broker, serve until a signal arrives, and stop. Raises StartRefused."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        # systemd's runtime folder is on another file system than the store, so it may have room when that is full.
        runtime = self._environ.get("RUNTIME_DIRECTORY", "").split(":")
        async with AsyncExitStack() as closing:
            await closing.enter_async_context(_meanwhile(self._send_watchdog()))
            async with _meanwhile(self._extend_timeout()), _meanwhile(self._answer_early_operators()):
                await self._start_sandbox(closing)
                broker = await closing.enter_async_context(
                    open_broker(
                        self._settings,
                        timings=self._timings,
                        spool_folders=tuple(Path(folder) / "spool" for folder in runtime if folder),
                        watch=self._watch,
                        environ=self._environ,
                        limits=ListenerLimits().within(use_every_file()),
                    )
                )
                loop.add_signal_handler(signal.SIGHUP, self._reload, broker)
                await self._listen(broker, closing)
            self._sockets.all_served()
            # Objects made by the start stay as long as the process, and hardly any later ones form cycles.
            gc.freeze()
            gc.set_threshold(*COLLECT_AFTER)
            await self._serve(broker)
        log.info("broker.stopped")

    async def _serve(self, broker: Broker) -> None:
        """Report readiness, renew in the background, wait for the signal, and finish the renewals under way."""
        background = asyncio.create_task(broker.background.run(), name="background")
        recovery = asyncio.create_task(broker.tokens.recovery.renew(broker.left_open), name="recovery")
        alerts = asyncio.create_task(broker.alerts.run(), name="alerts")
        broker.context.health.starting = False
        self._notifier.ready(READY)
        log.info("broker.started", left_open=len(broker.left_open))
        demo = asyncio.create_task(show_demo(broker, self._settings), name="demo")
        await self._stop.wait()
        self._notifier.stopping()
        renewals, installs = len(broker.tokens.flights), len(broker.installs.service.exchanges)
        log.info("broker.stopping", renewals=renewals, installs=installs)
        broker.stop_waiting()
        for task in (demo, recovery, background):
            await until_cancelled(task)
        # Renewals and installs under way end as usual; valid tokens are served meanwhile.
        async with _meanwhile(self._extend_timeout()):
            await broker.tokens.flights.drain()
            await broker.installs.service.exchanges.drain()
            await broker.tokens.retained.settled()
            await broker.installs.late.settled()
        for flush in (broker.tokens.uses.flush, broker.callers.service.flush_uses):
            # Times of last use are not worth an unclean end.
            with suppress(StorageUnavailable):
                await flush()
        await broker.alerts.stop(alerts)
        broker.listeners.stop()

    async def _send_watchdog(self) -> None:
        """Notify systemd's watchdog from an ordinary task, so that systemd restarts a broker whose event loop hangs."""
        while self._notifier.watchdog_every is not None:
            self._notifier.watchdog()
            await asyncio.sleep(self._notifier.watchdog_every)

    async def _extend_timeout(self) -> None:
        """Ask systemd for more time: migrating a large store, or storing a token set on a full disk, takes long."""
        while True:
            self._notifier.extend_timeout(3 * EXTEND_EVERY)
            await asyncio.sleep(EXTEND_EVERY)

    async def _answer_early_operators(self) -> None:
        """Answer operators who wait at the admin socket while a start takes long, for instance for a migration."""
        while True:
            await asyncio.sleep(self._timings.tell_starting)
            self._sockets.answer_waiting(self._settings.server.admin_socket, _not_started(STARTING))

    async def _start_sandbox(self, closing: AsyncExitStack) -> None:
        settings = self._settings
        if not settings.sandbox.enabled:
            return
        settings.store.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        sandbox = Sandbox(
            listen=settings.sandbox.listen,
            database=settings.store.path.with_name("sandbox.db"),
            clock=SystemClock(),
            broker_public_url=settings.server.public_url,
        )
        try:
            await sandbox.start()
        except OSError as exc:
            if exc.filename:
                raise StartRefused(
                    f"the sandbox cannot open {exc.filename}: {exc.strerror}; move it away"
                ) from None
            raise refused("sandbox.listen", settings.sandbox.listen, exc) from None
        closing.push_async_callback(sandbox.stop)

    async def _listen(self, broker: Broker, closing: AsyncExitStack) -> None:
        """Open every listening socket before any of them answers, because another address may refuse the start."""
        server, listeners, sites = self._settings.server, broker.listeners, list[web.BaseSite]()

        def reload() -> dict[str, Any]:
            problems, kept = self._reload(broker)
            return {"config": str(self._settings.path), "problems": [*problems], "needs_restart": [*kept]}

        listeners.admin[RELOAD] = reload
        admin = UnixListen(server.admin_socket, 0o660 if server.admin_group else 0o600, server.admin_group)
        for application, listens, files, key in (
            (listeners.admin, (admin,), None, "server.admin_socket"),
            (listeners.internal, server.internal, server.internal_tls, "server.internal"),
            (listeners.public, server.public, server.public_tls, "server.public"),
        ):
            runner = QuietRunner(application)
            closing.push_async_callback(runner.cleanup)
            await runner.setup()
            tls = None if files is None else ServerTls(files, f"{key}_tls")
            self._tls += [tls] if tls else []
            for listen in listens:
                # A Unix socket does not leave the machine, and no certificate names it.
                socket = self._sockets.listening(listen, key=key)
                if tls and not isinstance(listen, UnixListen):
                    sites.append(TlsSite(runner, socket, tls.context))
                else:
                    sites.append(web.SockSite(runner, socket))
        self._sockets.refuse_unclaimed()
        for site in sites:
            await site.start()

    def _reload(self, broker: Broker) -> tuple[Sequence[str], Sequence[str]]:
        """Load the configuration again; return the file's problems, and the changed keys that need a restart.

        A file with problems changes nothing. SIGHUP and `broker reload` call this.
        """
        self._notifier.reloading()
        try:
            new = load(self._settings.path, environ=self._environ, port=self._port)
            for tls in self._tls:
                usable(tls.files, key=tls.key)
        except (ConfigError, StartRefused) as exc:
            problems = exc.problems if isinstance(exc, ConfigError) else (str(exc),)
            for problem in problems:
                log.error("reload.refused", problem=problem)
            self._notifier.ready(f"reload refused: {problems[0]}")
            return problems, ()
        for tls in self._tls:
            tls.reload()
        wipe_variables(new.variables)
        self._settings, kept = reloadable(self._settings, new)
        broker.use(self._settings)
        logs.configure(self._settings.log, environ=self._environ)
        for line in kept:
            log.warning("reload.needs_restart", key=line)
        log.info("broker.reloaded")
        self._notifier.ready(f"{READY}; needs a restart: {', '.join(kept)}" if kept else READY)
        return (), kept


@asynccontextmanager
async def _meanwhile(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Run `work` as a task until the block ends."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        await until_cancelled(task)


def _answer_waiting(sockets: Sockets, config: Path, environ: Mapping[str, str], why: str) -> None:
    """Tell operators who wait at the admin socket, which systemd keeps open during restarts, why the start failed."""
    with suppress(ConfigError):
        sockets.answer_waiting(admin_socket_of(config, environ), _not_started(f"{REFUSED} {why}"))


def _not_started(why: str) -> bytes:
    """Return a complete HTTP answer as bytes, because no server is running that could make one."""
    body = json.dumps({"code": "not_started", "status": 503, "detail": why}).encode()
    head = f"HTTP/1.1 503 Service Unavailable\r\nContent-Length: {len(body)}\r\nConnection: close"
    return f"{head}\r\nContent-Type: application/problem+json\r\n\r\n".encode() + body
