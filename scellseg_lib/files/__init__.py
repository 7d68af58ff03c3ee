"""Image files, exports, and where an experiment's files are."""
