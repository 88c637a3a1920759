"""Uses of a pretrained encoder: commands to run, and code to start from.

A command (`retrieve`, `segment`, `speech`, `text`, `multimodal`) reads arguments; the files beside
it do the work. The last three train on inputs that are no images.
Nothing else imports an example.
"""
