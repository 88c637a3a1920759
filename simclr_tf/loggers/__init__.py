"""Where a run is logged: `together` is all of its loggers as one, which the rooms above call; each
logger is one file named as `--loggers` names it, with a function `open_logger`, and one row in
`names`. It takes plain arguments and knows no training; `metrics.csv` and other files are `runs`'.
"""
