"""Keras models that train: SimCLR, Classifier, Distiller, what their steps share, and what their
`fit`, `evaluate` and `predict` take and refuse.
They take plain arguments; what a run makes of its settings is in `runs`.
"""
