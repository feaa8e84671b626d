"""The benchmark: what an instance costs and how fast it is, measured on two whole instances of this machine.

`python -m bench` prints a table of wanted and measured figures. Rates depend on the machine, so each stands
beside a yardstick of the same run: how many RSA-2048 signatures one thread makes in a second.
"""
