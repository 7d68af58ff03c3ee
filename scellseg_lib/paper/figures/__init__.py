"""The panels of the figures, one function each; needs the extra ``[notebooks]``.

A panel is drawn into the axes that it is given, in the style that the notebook has set.
"""
