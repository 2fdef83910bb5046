"""The tests.

Unless OMP_NUM_THREADS says otherwise, every process computes with one thread. pytest runs several processes, and
threads that spin while they wait for each other would take twice the time.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported, which read it once
