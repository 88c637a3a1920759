"""What a pretrained encoder is good for: commands to run, and code to start from."""
