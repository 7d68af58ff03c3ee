"""The panels of the figures, one function each; needs the extra ``[notebooks]``."""
