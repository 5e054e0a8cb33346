"""Whole quorums in one process: virtual time, a seeded network, crashes, and liars with one sin each.

python -m tests.sim --seed 7            # replay one seed, with its story
python -m tests.sim --seeds 0:100000    # run a range, stop at the first failure
"""
