"""What only the lessons need: exercises, short trainings, drawings."""
