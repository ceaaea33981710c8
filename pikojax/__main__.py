"""`python -m pikojax` is the `pikojax` command."""

import sys

from pikojax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
