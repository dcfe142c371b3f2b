"""``python -m bench.cli``: the same as the script ``bench``."""

from bench.cli.app import main

if __name__ == "__main__":
    main()
