"""What a log holds and how its readers fare: topics as tables, lag, dead letters, health."""
