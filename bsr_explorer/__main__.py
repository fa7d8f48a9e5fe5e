"""``python -m bsr_explorer``."""

from bsr_explorer.cli import main

main()
