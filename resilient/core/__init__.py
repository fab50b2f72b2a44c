"""Pure state machines: no sleeping, no I/O, no await; time comes in as a number."""
