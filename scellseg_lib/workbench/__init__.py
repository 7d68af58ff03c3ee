"""The workbench: annotate, fine-tune, segment, inspect and export in the browser."""
