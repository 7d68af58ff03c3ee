"""``python -m scellseg_lib`` is the command ``scellseg``."""

from scellseg_lib.cli import app

app(prog_name="scellseg")
