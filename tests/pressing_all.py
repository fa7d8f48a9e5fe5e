"""Presses Ctrl-C as a terminal does, for all processes of a group, while this module is loaded."""

import os
import signal

os.killpg(0, signal.SIGINT)
