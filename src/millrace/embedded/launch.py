"""Becomes another program, bound to the life of the process that started it.

Run as a script (`python -I -S launch.py PARENT DEATH_SIGNAL UID GID -- program args`), it asks the kernel to
be signalled when PARENT dies, drops to UID and GID (`-` keeps them), and execs. The pid stays the same.

A script rather than `preexec_fn`: Python code between fork and exec can deadlock when the parent has threads,
and the stack runs in a thread of the test process. Costs about 20 ms a start, and no memory once it has
become the program. Imports only the standard library, and starts without `site`.
"""

import ctypes  # before dropping to an account that may not be able to read the standard library
import os
import sys

_PR_SET_PDEATHSIG = 1
_ARGUMENTS = 5  # PARENT DEATH_SIGNAL UID GID --


def _die_with_parent(parent_pid: int, death_signal: int) -> None:
    """Linux only. Elsewhere an orphan lives until the next start of the stack finds it in the state file."""
    if sys.platform != "linux":
        return
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:  # it died before we asked
        sys.exit(1)


def main(arguments: list[str]) -> None:
    """Take on the process's new clothes and become the program."""
    parent, death_signal, uid, gid, _dashes = arguments[:_ARGUMENTS]
    program = arguments[_ARGUMENTS:]
    if uid != "-":
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    _die_with_parent(int(parent), int(death_signal))  # after setuid, which clears the request
    os.execv(program[0], program)  # noqa: S606 - becoming the program is the point


if __name__ == "__main__":
    main(sys.argv[1:])
