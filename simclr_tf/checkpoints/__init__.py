"""Weights in files: ours and the release's, written, read, resumed, loaded in part.
`reader` reads a file, `variables` names a model's variables as it does, `loading` puts the one into
the other; `store` keeps a run's checkpoints; `release` makes models of the release's files.
"""
