"""Facts about models, calibrations and reports."""
