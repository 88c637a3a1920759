"""Many runs from one command: which settings are tried, by which figure, and which run was best.
`space` and `metrics` say what may be asked for, `sampling` draws, `child` runs, `record` remembers.
It knows the settings' table and what runs leave in their folders; only the commands know it.
"""
