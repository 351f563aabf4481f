"""`octavo serve` under the name that people have in their scripts: `python -m octavo.entrypoints.openai.api_server`."""

import sys

from octavo.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
