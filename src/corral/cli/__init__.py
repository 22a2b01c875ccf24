"""The command line: it wires the rooms together and holds no logic."""

from corral.cli import jobs, operator, records, service, setup, talk
from corral.cli.common import app

__all__ = ["app", "jobs", "operator", "records", "service", "setup", "talk"]
