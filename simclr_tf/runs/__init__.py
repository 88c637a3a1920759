"""A run from settings to results: what it builds, its folder, what happens beside its steps, and
its comparison with baselines.
The only room that unpacks a `Config`.
"""
