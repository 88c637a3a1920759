"""A run from settings to results: `run` takes the steps in order, each a file here (`settling`,
`data`, `building`, `starting`, `training`, `evaluating`, `exporting`, `following`, `comparison`).
The only room that unpacks a `Config`.
"""
