"""Optimizers and schedules: LARS, the learning rate's warm-up and decay, and optimizers
that can be asked for by name (`registry`).
They know variables, but no loss.
"""
