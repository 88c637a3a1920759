"""What applies to images everywhere: what their numbers mean, what shows through transparent
pixels, how they are cropped and resized, and how a batch that breaks a rule is refused.
Views, evaluation, data sets and exports share it; nothing here is random or trained. The names of
the augmentations are here too, since the settings read them without TensorFlow.
"""
