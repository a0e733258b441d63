"""Making a PostgreSQL cluster, for ourselves or, when we are root, for an account that the server accepts.

PostgreSQL refuses to run as root. Root therefore runs it as an existing account (no account is created on the
user's machine): the owner of the cluster if there is one already, else the first of `ROOT_ACCOUNTS` that
exists. That account must be able to walk to the cluster and to the server's programs, so every directory on
the way that it could not pass gets the execute bit for others: to pass through, not to list.
"""

import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from millrace.embedded.errors import BinaryUnavailableError, DataDirectoryError
from millrace.embedded.process import Account

SUPERUSER = "millrace"
PRIVATE_MODE = 0o700
ROOT_ACCOUNTS = ("millrace", "postgres", "nobody")
# A Unix socket's path may have 107 bytes on Linux and 103 on macOS.
SOCKET_PATH_BYTES_MAX = 100
_SOCKET_NAME = ".s.PGSQL.65535.lock"
_INITDB_TIMEOUT_S = 120.0
_HBA = """\
# Generated: everyone who reaches us proves who they are.
local all all                scram-sha-256
host  all all 127.0.0.1/32   scram-sha-256
"""


@dataclass(frozen=True)
class ClusterPlace:
    """A cluster's directory, the programs that serve it, and whom they run as (None: ourselves)."""

    directory: Path
    programs: Path
    account: Account | None

    def write(self, name: str, text: str) -> None:
        """Replace a file in the cluster, owned by the account and private to it."""
        path = self.directory / name
        staged = path.with_name(f".{name}.new")
        staged.unlink(missing_ok=True)
        with os.fdopen(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            if self.account is not None:  # by descriptor: the account could swap the name for a link
                os.fchown(file.fileno(), self.account.uid, self.account.gid)
        staged.replace(path)

    def own(self, path: Path) -> None:
        """Give a path to the account."""
        if self.account is not None:
            os.chown(path, self.account.uid, self.account.gid)

    def run(self, *arguments: str, stdin: str = "") -> None:
        """Run one of the programs to its end, as the account.

        Raises:
            DataDirectoryError: it failed; the message has its last words.
        """
        as_account = {"user": self.account.uid, "group": self.account.gid, "extra_groups": []} if self.account else {}
        try:
            subprocess.run(  # noqa: S603 - our own program and arguments
                [self.programs / arguments[0], *arguments[1:]],
                **as_account,  # type: ignore[call-overload]
                input=stdin,
                capture_output=True,
                check=True,
                cwd="/",
                env={"LC_ALL": "C", "PATH": os.defpath},
                text=True,
                timeout=_INITDB_TIMEOUT_S,
            )
        except PermissionError as error:
            raise BinaryUnavailableError(
                f"{self.programs / arguments[0]} cannot be run by uid {self._uid}: install Millrace where "
                "that account may read it, or set MILLRACE_DATABASE_URL to a server of your own."
            ) from error
        except subprocess.CalledProcessError as error:
            last_words = "\n".join((error.stderr or error.stdout or "").splitlines()[-8:])
            raise DataDirectoryError(
                f"{arguments[0]} could not make a database in {self.directory} as uid {self._uid}:\n{last_words}"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise DataDirectoryError(
                f"{arguments[0]} did not finish within {_INITDB_TIMEOUT_S:g} s in {self.directory}: is the disk hung?"
            ) from error

    @property
    def _uid(self) -> int:
        return self.account.uid if self.account else os.geteuid()


def create_cluster(place: ClusterPlace, password: str, database: str) -> None:
    """Make the cluster with one superuser and one database; it appears whole or not at all.

    Args:
        place: where; must not exist yet.
        password: the superuser's.
        database: created from template1.

    Raises:
        DataDirectoryError: initdb failed.
        BinaryUnavailableError: the account cannot run the programs.
    """
    staged = place.directory.with_name(f"{place.directory.name}.new")
    shutil.rmtree(staged, ignore_errors=True)  # of a start that was killed in the middle
    staged.mkdir(mode=PRIVATE_MODE)
    place.own(staged)
    draft = ClusterPlace(staged, place.programs, place.account)
    with tempfile.NamedTemporaryFile("w", dir=place.directory.parent, prefix=".pw-") as secret:
        secret.write(password)
        secret.flush()
        place.own(Path(secret.name))
        draft.run(
            "initdb",
            *("--pgdata", str(staged), "--username", SUPERUSER, "--pwfile", secret.name),
            *("--auth", "scram-sha-256", "--encoding", "UTF8"),
            # Sorts the same on every machine, whatever its C library.
            *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", "C"),
            "--no-instructions",
        )
    draft.write("pg_hba.conf", _HBA)
    draft.run("postgres", "--single", "-D", str(staged), "template1", stdin=f"CREATE DATABASE {database};\n")
    staged.rename(place.directory)


def account_for(directory: Path) -> Account | None:
    """Whom the server of this cluster runs as: None (ourselves) unless we are root.

    Raises:
        DataDirectoryError: we are root and there is no account to use.
    """
    if os.geteuid() != 0:
        return None
    if directory.exists() and (owner := directory.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    for name in ROOT_ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise DataDirectoryError(
        f"PostgreSQL refuses to run as root, and none of the accounts {', '.join(ROOT_ACCOUNTS)} exists: "
        "run Millrace as an ordinary user, or set MILLRACE_DATABASE_URL."
    )


def open_the_way(path: Path, account: Account) -> list[Path]:
    """Let the account pass through every directory above `path`.

    Returns:
        The directories that were changed (execute bit for others added).
    """
    changed = []
    for parent in path.absolute().parents:
        status = parent.stat()
        if status.st_uid == account.uid:
            needed = stat.S_IXUSR
        elif status.st_gid == account.gid:
            needed = stat.S_IXGRP
        else:
            needed = stat.S_IXOTH
        if not status.st_mode & needed:
            parent.chmod(stat.S_IMODE(status.st_mode) | needed)
            changed.append(parent)
    return changed


def choose_socket_dir(preferred: Path, remembered: Path | None, account: Account | None) -> Path:
    """A directory, private to the account, whose name leaves room for a socket's.

    Args:
        preferred: inside the data directory; used if it is short enough.
        remembered: the short one that was chosen before, reused if it is still ours and private.
        account: who will own it; None for ourselves.
    """
    owner = Account(os.geteuid(), os.getegid()) if account is None else account
    if len(os.fsencode(preferred / _SOCKET_NAME)) <= SOCKET_PATH_BYTES_MAX:
        preferred.mkdir(exist_ok=True)
        chosen = preferred
    elif remembered is not None and _is_private(remembered, owner):
        return remembered
    else:
        chosen = Path(tempfile.mkdtemp(prefix="millrace-", dir="/tmp"))
    chosen.chmod(PRIVATE_MODE)
    if account is not None:
        os.chown(chosen, account.uid, account.gid)
    return chosen


def _is_private(directory: Path, owner: Account) -> bool:
    """Whether nobody else could have put something there: /tmp is swept, and names are reused."""
    try:
        status = directory.lstat()
    except FileNotFoundError:
        return False
    mine = stat.S_ISDIR(status.st_mode) and status.st_uid == owner.uid
    return mine and stat.S_IMODE(status.st_mode) == PRIVATE_MODE
