"""How `--help` looks: a description as it is written, and the default of whatever has one."""

from __future__ import annotations

import argparse
from typing import Final


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of description and epilog; tells the default of an argument that has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        if "%(default)" in text or default in (None, False, [], argparse.SUPPRESS):
            return text
        shown = " ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)
        return f"{text} (default: {shown})".replace("%", "%%")


SETTINGS_AND_STATUS: Final = """\
settings (environment variables, or lines of .env in the working directory):
  HOST, PORT     where to listen: 127.0.0.1 and 8000
  METRICS_PORT   where a worker alone answers /metrics, /healthz and /readyz; unset: nowhere
  PUBLIC_URL     the base of every URL handed out, where a proxy stands in front
  DATABASE_URL   PostgreSQL; without it one of the service's own, in POSTGRES_DIR
  STORAGE_URL    where the files lie: file:PATH or s3://bucket/prefix
  API_KEYS       SHA-256 digests of the keys that are accepted
README.md has all of them, docs/operations.md tells how to run the service for good.

exit status:
  0    stopped by SIGTERM or Ctrl-C, everything under way ended or handed back
  2    an argument or setting is wrong, or database, store or port can't be used:
       a line says which, and what to do
  -15, -2  ended at once by a second signal"""
