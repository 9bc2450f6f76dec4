"""Report text -> labels with their evidence."""
