"""``python -m pipeline`` is ``study``."""

from pipeline.cli.app import main

if __name__ == "__main__":
    main()
