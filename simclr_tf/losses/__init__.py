"""Losses as functions and objects of tensors: NT-Xent whole (`nt_xent`) or in blocks (`blockwise`),
the other contrastive losses by name (`named`), and cross-entropy.
They handle replicas, but no models.
"""
