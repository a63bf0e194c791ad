"""Reviews: which rows wait for whom, whether decisions fit them, and how decisions come in and go out."""
