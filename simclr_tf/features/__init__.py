"""Features of images by an exported model: the model as a function, its rows for a whole data set,
and the files that other programs read.
`store`, `files` and `projector` do without TensorFlow.
"""
