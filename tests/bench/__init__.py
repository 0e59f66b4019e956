"""Measures Callboard next to the floor, the least work that the same servers allow: `make bench`, or with servers of your own
`python -m tests.bench`. What it prints depends on the machine; the ratio to the floor much less so.
"""
