"""Serve the workbench in the browser: ``python -m scellseg_lib.workbench FOLDER``."""

import sys

from scellseg_lib.workbench.app import serve

serve(sys.argv[1:])
