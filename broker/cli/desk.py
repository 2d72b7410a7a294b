"""What a command works with: the configuration's place, environment, clock, and the broker that answers."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from broker.cli.admin_socket import AdminSocket
from broker.cli.failed import Failed
from broker.clock import Clock, SystemClock
from broker.config import ConfigError, admin_socket_of, environment, locate
from broker.systemd import ServiceState, run_command, service_state, service_variables


@dataclass(frozen=True, slots=True)
class Desk:
    """Every command gets one."""

    config: str | None = None
    """As given with `--config`."""
    environ: Mapping[str, str] = field(default_factory=environment)
    clock: Clock = field(default_factory=SystemClock)
    systemd: Callable[..., bytes | None] = run_command
    """Runs `systemctl` and its like."""

    def configured_by(self, config: str) -> "Desk":
        return replace(self, config=config)

    @property
    def config_path(self) -> Path:
        return locate(self.config, self.environ)

    @property
    def service(self) -> ServiceState | None:
        """The systemd service that runs with this configuration, if there is one."""
        return service_state(self.config_path, self.systemd)

    @contextmanager
    def as_service(self) -> Iterator[Mapping[str, str]]:
        """The environment in which a command opens what the service opens: with what systemd sets for that."""
        if "CREDENTIALS_DIRECTORY" in self.environ or self.service is None:
            yield self.environ
            return
        with service_variables(self.systemd) as variables:
            yield {**self.environ, **variables}

    @property
    def broker(self) -> AdminSocket:
        """The running broker; raises Failed where the configuration does not say where it answers."""
        try:
            return AdminSocket(admin_socket_of(self.config_path, self.environ))
        except ConfigError as exc:
            raise Failed(exc.problems[0]) from None
