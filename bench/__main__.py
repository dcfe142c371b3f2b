"""``python -m bench``: the same as the script ``bench``."""

from bench.cli import main

if __name__ == "__main__":
    main()
