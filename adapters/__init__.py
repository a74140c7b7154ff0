"""Text in, weights and verdicts out: knows no database, web framework or scheduler."""
