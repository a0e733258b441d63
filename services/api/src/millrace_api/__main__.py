"""`python -m millrace_api`."""

import sys

from millrace_api.entrypoint import main

if __name__ == "__main__":
    sys.exit(main())
