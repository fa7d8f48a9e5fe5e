"""Where trials run: in this process, each in a process of its own, or on a cluster."""
