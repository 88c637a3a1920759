"""Uses of a pretrained encoder: commands to run, and code to start from.

A command (`retrieve`, `segment`) reads arguments; the file beside it does the work.
Nothing else imports an example.
"""
