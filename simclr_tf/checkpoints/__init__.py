"""Weights in files: ours and the release's, written, read, resumed, loaded in part.
What a file holds is read by `reader`, put into models by `store`; `release` makes models of the
release's files.
"""
