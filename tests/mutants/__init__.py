"""Faults, made one at a time in a copy of the source, and the tests that notice them.

python -m tests.mutants                   all of them; minutes
python -m tests.mutants clip temperature  those whose description holds one of the words
"""
