"""A process for the supervisor's tests. `worker.py DIRECTORY [BEHAVIOUR...]`

It is ready when DIRECTORY/ready exists. While DIRECTORY/broken exists it exits with 3 at once.
Behaviours: `stubborn` ignores SIGTERM; `mute` never becomes ready; `parent` has a child, whose pid is in
DIRECTORY/child.
"""

import signal
import subprocess
import sys
from pathlib import Path

directory, behaviour = Path(sys.argv[1]), set(sys.argv[2:])
(directory / "ready").unlink(missing_ok=True)
sys.stdout.write("a line of the worker\n")
sys.stdout.flush()
if (directory / "broken").exists():
    sys.stdout.write("the worker is broken\n")
    sys.exit(3)
signal.signal(signal.SIGTERM, signal.SIG_IGN if "stubborn" in behaviour else lambda *_: sys.exit(0))
if "parent" in behaviour:
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    (directory / "child").write_text(str(child.pid))
if "mute" not in behaviour:
    (directory / "ready").touch()
while True:
    signal.pause()
