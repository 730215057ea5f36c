"""Boxes for images that lack them, with a record of where each came from.

``seeding`` chooses which images a person draws first, ``exchange`` talks to labelling tools,
``ledger`` records what happened to every box, ``propagation`` lets detectors label the rest,
``audit`` certifies how good that is, ``queue`` holds what a person should see.
"""
