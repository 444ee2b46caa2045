"""Runs of real processes under faults: recording clients, a network that breaks, and the one who breaks things.

Strategy: three parts that know little of each other. `recorder` is an application on the shipped client library that writes down what it
sends and shows; `devices` is a process full of them. `network` is a stretch of TCP between clients and server that can be cut, held up and
made to swallow. `run` starts the processes, harms them at random moments, heals everything, waits until it is quiet, and lets
`twisted_im.oracle` judge what was written down. Nothing here knows how the server works.
"""
