"""Files and folders of any content: written whole or not at all, by one worker of several, checked
before work begins; and why something could not be read.
Nothing here knows images or networks.
"""
