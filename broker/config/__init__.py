"""config.toml, the environment and credentials become frozen settings: `load`."""

from broker.config.environment import environment, wipe_variables
from broker.config.loading import admin_socket_of, load, locate, reloadable, store_of, store_path_of
from broker.config.problems import ConfigError
from broker.config.settings import Settings

__all__ = [
    "ConfigError",
    "Settings",
    "admin_socket_of",
    "environment",
    "load",
    "locate",
    "reloadable",
    "store_of",
    "store_path_of",
    "wipe_variables",
]
