"""The errors that cross package borders.

    MillraceError
    ├── RetryableError          the same call may succeed later: nothing was lost, try again
    │   ├── BusUnavailable      NATS did not answer in time
    │   ├── UpgradeNeeded       a message is of a later version than this code
    │   └── DatabaseUnavailable Postgres did not answer in time
    └── TerminalError           the same call will always fail: change something first
        ├── MessageInvalid      bytes on the bus are not a message we know
        ├── SettingsInvalid     the environment asks for something impossible
        ├── ValueTooLarge       a value is over its limit
        ├── DatabaseRefused     Postgres answers, and does not let us in
        ├── MigrationRefused    a schema cannot be brought up to date
        ├── DefinitionError     definition/errors.py
        └── ExpressionFailure   expressions/errors.py

Each package adds its own below one of the two branches, in its `errors.py`.
"""

from __future__ import annotations


class MillraceError(Exception):
    """Something went wrong that Millrace foresaw: the message says what, to what, and what to do."""


class RetryableError(MillraceError):
    """The same call may succeed later."""


class TerminalError(MillraceError):
    """The same call will always fail."""


class BusUnavailable(RetryableError):
    """NATS did not answer in time; whether it acted is unknown."""


class DatabaseUnavailable(RetryableError):
    """Postgres did not answer in time, or went away."""


class UpgradeNeeded(RetryableError):
    """A message is of a later version than this code: it is right, and we are too old for it."""


class MessageInvalid(TerminalError):
    """Bytes on the bus are not a message this version knows."""


class SettingsInvalid(TerminalError):
    """The environment asks for something impossible."""


class ValueTooLarge(TerminalError):
    """A value is over its limit."""


class DatabaseRefused(TerminalError):
    """Postgres answers, but refuses the user, the password or the database."""


class MigrationRefused(TerminalError):
    """A schema cannot be brought up to date: the files and what was applied do not fit."""
