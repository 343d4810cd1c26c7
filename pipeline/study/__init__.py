"""The driver: the window of trials, one trial's life, resume, single trainings, doctor, delete."""
