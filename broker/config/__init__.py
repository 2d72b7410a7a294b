"""Reads config.toml, environment variables and credentials into frozen settings."""

from broker.config.loading import admin_socket_of, load, locate, reloadable, store_of, store_path_of
from broker.config.secrets import environment, wipe_variables
from broker.config.settings import Settings
from broker.config.table import ConfigError

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
