"""Optimizers and schedules: LARS, the learning rate's warm-up and decay, and optimizers by name
(`registry`).
They handle variables, but no losses.
"""
