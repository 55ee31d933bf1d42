"""What everything else stands on: messages, errors, files, locks, signals, threads."""
