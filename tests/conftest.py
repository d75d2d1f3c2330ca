"""One thread, as in the commands that tests start, so that figures of both agree to the bit."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
