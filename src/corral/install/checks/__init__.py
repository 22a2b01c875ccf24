"""The checks of the doctor: plain functions, a file for each kind of thing that is looked at."""
