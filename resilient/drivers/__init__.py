"""How to wait, to be woken and to be interrupted, on threads and in tasks."""
