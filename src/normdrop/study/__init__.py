"""A study: its configs, its sweep over conditions, and the record that each leaves."""
