"""``python -m pipeline`` is ``study``."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
