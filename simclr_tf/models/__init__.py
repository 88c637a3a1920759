"""Networks from images to features, and their heads: ResNets, Keras's and KerasCV's networks under
one name, their stages (`endpoints`), the `recipe` that they are built from, and the recipe that a
file's shapes tell of (`architecture`).
How they are trained is in `training`.
"""
