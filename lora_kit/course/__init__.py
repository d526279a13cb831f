"""What only the lessons need: exercises and short trainings."""
