"""Losses as plain functions of tensors: NT-Xent whole (`nt_xent`) or in blocks (`blockwise`), and
cross-entropy.
They handle replicas, but no models.
"""
