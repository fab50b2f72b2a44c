"""What guarded calls cost here and in other libraries, measured side by side. `python -m benchmarks.peers --help`."""
