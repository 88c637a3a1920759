"""Networks from images to features, and their heads: ResNets, networks of Keras, KerasCV and
KerasHub by name, their stages (`endpoints`), the `recipe` that they are built from, and the recipe
read off a file's shapes (`architecture`).
How they are trained is in `training`.
"""
