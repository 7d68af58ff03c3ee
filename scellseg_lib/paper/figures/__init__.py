"""The panels of the figures, drawn into the axes given; needs the extra ``[notebooks]``."""
