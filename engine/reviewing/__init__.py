"""Reviews: which rows wait for whom, whether decisions fit them, and how decisions are imported and exported."""
