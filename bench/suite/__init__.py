"""The parts of bench/run.py: what is chosen, how one measurement goes, what is watched meanwhile."""
