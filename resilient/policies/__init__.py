"""One file a policy: settings, class, sync shell, async shell, factory."""
