"""Features of images by an exported model: the model as a function, the features of a whole data
set, and the files that other programs read.
`store`, `files`, `projector` and `outputs` import no TensorFlow.
"""
