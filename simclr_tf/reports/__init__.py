"""What is known of trained models, gathered for people: evaluation by the field's protocols.
Every room below is known here; only the doors ask for it.
"""
