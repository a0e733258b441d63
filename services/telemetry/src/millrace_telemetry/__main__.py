"""`python -m millrace_telemetry`: see `entrypoint`."""

import sys

from millrace_telemetry.entrypoint import main

sys.exit(main())
