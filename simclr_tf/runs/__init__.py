"""A run from settings to results: `run` tells its story, and each sentence of it is a file here
(`settling`, `data`, `building`, `starting`, `training`, `evaluating`, `exporting`, `following`,
`comparison`). The only room that unpacks a `Config`.
"""
