"""`python -m millrace_agent_runner`."""

import sys

from millrace_agent_runner.entrypoint import main

sys.exit(main())
