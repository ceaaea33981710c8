"""`python -m pikojax` is the `pikojax` command."""

import sys

from pikojax.cli.main import command

if __name__ == "__main__":
    sys.exit(command())
