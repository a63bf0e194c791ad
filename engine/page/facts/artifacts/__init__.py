"""What pages say about models, calibrations and reports."""
