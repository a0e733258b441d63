"""`python -m millrace_orchestrator`."""

import sys

from millrace_orchestrator.entrypoint import main

sys.exit(main())
